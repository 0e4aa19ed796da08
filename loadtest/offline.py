"""What the library makes of the sentences, without a server: the answers that every request is held to."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kserve import Translator
from kserve.api.service import LOOP_GUARD
from loadtest import rival
from loadtest.texts import sentences


@dataclass(frozen=True)
class Offline:
    """Sentences with their translations, and of how many tokens these are."""

    bundle: Path
    threads: int
    translations: dict[str, str]
    lengths: dict[str, int]

    @classmethod
    def of(cls, bundle: Path | None, count: int) -> Offline:
        """Translate so many sentences with a model, the bundled one when none is named."""
        translator = Translator(bundle)
        texts = sentences(count)
        found = [one.text for one in translator.translate(texts, loop_guard=LOOP_GUARD)]
        return cls(
            translator.bundle.path,
            translator.threads,
            dict(zip(texts, found, strict=True)),
            {text: len(translator.tokenizer.encode(one)) for text, one in zip(texts, found, strict=True)},
        )

    def write(self, path: Path) -> Path:
        """The translations as JSON, for locust."""
        path.write_text(json.dumps(self.translations, ensure_ascii=False), encoding="utf-8")
        return path

    def rival(self, folder: Path) -> Path:
        """A rival that makes as many tokens of each sentence."""
        folder.mkdir(parents=True, exist_ok=True)
        return rival.prepare(folder, self.bundle, self.lengths, self.threads)
