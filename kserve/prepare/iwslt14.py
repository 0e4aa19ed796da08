"""`kserve prepare iwslt14`: the German-English TED talks of IWSLT 2014 as the field splits them.

The usual preparation drops pairs whose Moses tokens are too many or too unequal, takes every 23rd of the rest
for validation, and joins five development and test sets for the test. Here the tokens only decide; what is
written is the text itself, so that no detokeniser is needed afterwards. Case is lowered, as in the published
results, unless it is to be kept.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tqdm import tqdm

from kserve.prepare.archive import Archive, CorpusError, open_archive

LANGUAGES = ("de", "en")
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
VALIDATION_EVERY = 23
MOST_TOKENS = 175
MOST_UNEQUAL = 1.5

_NO_TEXT = ("<url>", "<talkid>", "<keywords>")  # lines of the training file that are about a talk
_FRAMES = re.compile(r"</?(?:title|description)>")
_SEGMENT = re.compile(r"<seg id[^>]*>(.*?)</seg>")

Pair = tuple[str, str]
CountTokens = Callable[[str, str], int]  # language and text


@dataclass
class Summary:
    """What was written and what was left out."""

    pairs: dict[str, int] = field(default_factory=dict)  # by prefix
    dropped: dict[str, int] = field(default_factory=dict)  # by reason
    sha256: dict[str, str] = field(default_factory=dict)  # by file name

    def as_dict(self) -> dict[str, dict[str, int] | dict[str, str]]:
        return asdict(self)

    def table(self) -> str:
        """For a person."""
        kept = [f"{prefix:<16}{count:>8} pairs" for prefix, count in self.pairs.items()]
        left = [f"{'left out':<16}{count:>8} {reason}" for reason, count in self.dropped.items()]
        return "\n".join(kept + left)


def prepare(source: Path, out: Path, keep_case: bool = False) -> Summary:
    """Write iwslt14-train, -valid and -test, each .de and .en.

    Args:
        source: The official archive, or the folder it was unpacked to.
        out: Folder of the files; made if it is not there. Files of an earlier run are replaced.
        keep_case: Whether capital letters stay.

    Raises:
        CorpusError: a file is missing or damaged, its two sides are not aligned, or `out` cannot be written.
    """
    archive = open_archive(source)
    summary = Summary()
    training, validation = split_training(clean(training_pairs(archive), summary))
    parts = {"train": training, "valid": validation, "test": list(test_pairs(archive))}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, pairs in parts.items():
            _write(out, f"iwslt14-{name}", pairs if keep_case else [_lower(pair) for pair in pairs], summary)
    except OSError as error:
        raise CorpusError(f"cannot write to {out}: {error.strerror}") from None
    return summary


def training_pairs(archive: Archive) -> list[Pair]:
    """The pairs of the tagged training files, titles and descriptions of talks among them."""
    sides = []
    for language in LANGUAGES:
        lines = archive.lines(f"train.tags.de-en.{language}")
        sides.append([_FRAMES.sub("", line) for line in lines if not any(tag in line for tag in _NO_TEXT)])
    return _aligned(sides, "train.tags.de-en")


def test_pairs(archive: Archive) -> Iterable[Pair]:
    """The pairs of the five sets, in order."""
    for name in TEST_SETS:
        stem = f"IWSLT14.{name}.de-en"
        sides = []
        for language in LANGUAGES:
            found = [_SEGMENT.search(line) for line in archive.lines(f"{stem}.{language}.xml")]
            sides.append([match.group(1).replace("’", "'") for match in found if match])
        if not sides[0]:
            raise CorpusError(f'{stem}.de.xml has no <seg id="…"> … </seg> line; is it the official file?')
        yield from ((_plain(german), _plain(english)) for german, english in _aligned(sides, stem))


def clean(pairs: list[Pair], summary: Summary) -> list[Pair]:
    """The pairs that the usual length rules keep, with a progress bar; counts the others by reason."""
    count = moses_counter()
    kept, reasons = [], Counter[str]()
    for pair in tqdm(pairs, unit="pair", desc="length rules", leave=False):
        reason = why_dropped(pair, count)
        if reason:
            reasons[reason] += 1
        else:
            kept.append((_plain(pair[0]), _plain(pair[1])))
    summary.dropped = dict(reasons)
    return kept


def why_dropped(pair: Pair, count: CountTokens) -> str:
    """Why the rules drop a pair; empty if they keep it."""
    lengths = [count(language, text) for language, text in zip(LANGUAGES, pair, strict=True)]
    if not min(lengths):
        return "with an empty side"
    if max(lengths) > MOST_TOKENS:
        return f"of more than {MOST_TOKENS} tokens"
    if max(lengths) > MOST_UNEQUAL * min(lengths):
        return f"with a side {MOST_UNEQUAL} times as long as the other"
    return ""


def moses_counter() -> CountTokens:
    """Counts the tokens that the Moses tokeniser makes of a text."""
    from sacremoses import MosesTokenizer

    tokenizers = {language: MosesTokenizer(lang=language) for language in LANGUAGES}
    return lambda language, text: len(tokenizers[language].tokenize(text))


def split_training(pairs: list[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Training and validation: every 23rd pair is the latter's."""
    if len(pairs) < VALIDATION_EVERY:
        raise CorpusError(
            f"only {len(pairs)} training pairs are left; expected at least {VALIDATION_EVERY}, of which one "
            "is for validation"
        )
    validation = pairs[VALIDATION_EVERY - 1 :: VALIDATION_EVERY]
    return [pair for number, pair in enumerate(pairs, 1) if number % VALIDATION_EVERY], validation


def _aligned(sides: list[list[str]], name: str) -> list[Pair]:
    german, english = sides
    if len(german) != len(english):
        raise CorpusError(
            f"{name}: {len(german)} German and {len(english)} English lines of text; from line "
            f"{min(len(german), len(english)) + 1} of the text on one side is missing"
        )
    return list(zip(german, english, strict=True))


def _plain(text: str) -> str:
    """Entities as characters, any space as one blank."""
    return " ".join(html.unescape(text).split())


def _lower(pair: Pair) -> Pair:
    return pair[0].lower(), pair[1].lower()


def _write(out: Path, prefix: str, pairs: list[Pair], summary: Summary) -> None:
    """Write both sides beside their places, then rename: whoever stops meanwhile leaves whole files."""
    summary.pairs[prefix] = len(pairs)
    for index, language in enumerate(LANGUAGES):
        data = "".join(f"{pair[index]}\n" for pair in pairs).encode()
        file = out / f"{prefix}.{language}"
        draft = file.with_name(file.name + ".tmp")
        draft.write_bytes(data)
        draft.replace(file)
        summary.sha256[file.name] = hashlib.sha256(data).hexdigest()
