"""A text cut into parts to translate and parts to keep, so that joining them again loses nothing.

A line is cut into its sentences, and a sentence that is too long for the model at clause marks. Kept byte for
byte: line breaks (LF, CR, CRLF, the Unicode ones), tabs, NUL and other control characters, space around a
line, sentences without a letter, and the space between two of them. `"".join(part.text for part in
cut(...))` is always the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from kserve.text.sentences import sentences

# Control characters (a tab parts the cells of a table); the line and paragraph separators.
_BREAKS = re.compile("([\x00-\x1f\x7f-\x9f\u2028\u2029]+)")
# Where line breaks are only space, the control characters that are none.
_CONTROLS = re.compile("([\x00-\x08\x0e-\x1f\x7f-\x9f]+)")

# Where a long line may be cut, the best places first; what is matched is kept between the segments. Sentence
# marks may be followed by closing quotes and brackets, full-width ones need no space.
_PLACES = (
    re.compile("(?:(?<=[.!?…])|(?<=[.!?…][\"'”“»«’)\\]]))\\s+|(?<=[。！？])"),
    re.compile("(?<=[,;:–—])\\s+|(?<=[，；：])"),
    re.compile("\\s+"),
)

# What a line of a list or of a dialogue begins with.
_BULLET = re.compile(r"\s*[-–—•*·‣]\s+(?=\S)")

Count = Callable[[str], int]


@dataclass(frozen=True)
class Part:
    """A piece of the text: to be translated, or to be kept as it is."""

    text: str
    translate: bool


@dataclass(frozen=True)
class Cutter:
    """How texts are cut: for a model that reads `limit` tokens, which `count` tells."""

    limit: int
    count: Count
    language: str  # of the sentences, for its abbreviations
    split: bool = True  # into sentences; without it a line is cut only where it is too long
    lines: bool = True  # whether a line break ends a sentence; in HTML it is only space

    def cut(self, text: str) -> list[Part]:
        """Parts of the text in order; no part to translate has more than `limit` tokens."""
        parts: list[Part] = []
        for index, line in enumerate((_BREAKS if self.lines else _CONTROLS).split(text)):
            if index % 2:
                parts.append(Part(line, translate=False))
            else:
                parts.extend(self._sentences(line))
        return [part for part in parts if part.text]

    def _sentences(self, line: str) -> list[Part]:
        if not has_letters(line):
            return [Part(line, translate=False)]
        parts: list[Part] = []
        if bullet := _BULLET.match(line) if self.lines else None:
            parts.append(Part(bullet.group(), translate=False))
            line = line[bullet.end() :]
        for start, end in sentences(line, self.language) if self.split else [(0, len(line))]:
            sentence = line[start:end]
            core = sentence.strip()
            if not has_letters(core):
                parts.append(Part(sentence, translate=False))
                continue
            start = sentence.index(core)
            parts.append(Part(sentence[:start], translate=False))
            parts.extend(_segments(core, self.limit, self.count))
            parts.append(Part(sentence[start + len(core) :], translate=False))
        return parts


def has_letters(text: str) -> bool:
    """Whether there is anything to translate: digits, marks and emoji say the same in every language."""
    return any(character.isalpha() for character in text)


def _segments(line: str, limit: int, count: Count, level: int = 0) -> list[Part]:
    """The sentence in segments of at most `limit` tokens, cut at the best places that are good enough."""
    if count(line) <= limit:
        return [Part(line, translate=has_letters(line))]
    if level == len(_PLACES):
        return _halves(line, limit, count)
    pieces = _atoms(line, _PLACES[level])
    if len(pieces) == 1:
        return _segments(line, limit, count, level + 1)
    parts: list[Part] = []
    for group in _packed(pieces, limit, count):
        parts.extend(_segments(group.text, limit, count, level + 1) if group.translate else [group])
    return parts


def _atoms(line: str, place: re.Pattern[str]) -> list[Part]:
    """The line cut at every such place: text and the space between, in turn."""
    parts: list[Part] = []
    start = 0
    for match in place.finditer(line):
        parts.append(Part(line[start : match.start()], translate=True))
        parts.append(Part(match.group(), translate=False))
        start = match.end()
    parts.append(Part(line[start:], translate=True))
    return [part for part in parts if part.text]


def _packed(pieces: list[Part], limit: int, count: Count) -> list[Part]:
    """Neighbouring pieces joined again while they fit; the space at a remaining cut is a part of its own."""
    groups: list[Part] = []
    text, tokens, space = "", 0, ""
    for piece in pieces:
        if not piece.translate:
            space = piece.text
            continue
        more = count(piece.text)
        if text and tokens + more <= limit:
            text, tokens = text + space + piece.text, tokens + more
        else:
            groups += [Part(text, translate=True), Part(space, translate=False)]
            text, tokens = piece.text, more
        space = ""
    groups += [Part(text, translate=True), Part(space, translate=False)]
    return [group for group in groups if group.text]


def _halves(word: str, limit: int, count: Count) -> list[Part]:
    """A word too long for the model, in halves until they fit; no cut before a combining mark."""
    if count(word) <= limit or len(word) == 1:
        return [Part(word, translate=has_letters(word))]
    middle = len(word) // 2
    while middle > 1 and unicodedata.combining(word[middle]):
        middle -= 1
    return _halves(word[:middle], limit, count) + _halves(word[middle:], limit, count)
