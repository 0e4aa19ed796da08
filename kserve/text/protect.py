"""What a translation must hold exactly as the source does: placeholders, addresses, names of users, numbers.

Each of them becomes one private character of the text, a unit, before the text is cut into sentences. The
model never sees it: it sees a word that it copies reliably, a mask, which is exchanged for the unit
afterwards; a translation in which a mask is missing, doubled or out of order is not used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

# Units are characters of a plane for private use; one that the text itself holds becomes a unit, too.
_FIRST, _LAST = 0xF0000, 0xFFFFD
UNIT = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")

# Every alternative begins with what is rare, or may not begin inside of its own first run: linear time.
_PROTECTED = re.compile(
    rf"""
    (?P<name>
        (?:https?|ftp|file)://[^\s<>"'`{{}}|\\^]*[^\s<>"'`{{}}|\\^.,;:!?)\]»«“”]
      | \bwww\.[\w-]+\.[\w./%?=&\#~+-]*[\w/]
      | (?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+
      | \{{\{{[^{{}}\n]*\}}\}} | [$\#%]\{{[^{{}}\n]*\}} | \{{\w*(?:[.:!,\[][^{{}}\n]*)?\}}
      | %\(\w+\)[a-zA-Z] | %\d+\$[@a-zA-Z]
      | (?<![\w/])@\w[\w-]*(?:\.[\w-]+)*(?:@[\w-]+(?:\.[\w-]+)+)?
      | (?<![\w&])\#[^\W\d]\w* | (?<!\w)[^\W_]+(?:_[^\W_]+)+(?!\w)
      | {UNIT.pattern}
    )
  | (?P<argument>(?<![\w%])%[@sc](?!\w))
  | (?P<count>(?<![\w%])%[-+0\#]*\d*(?:\.\d+)?(?:hh?|ll?|[jztL])?[diufFgGxXeEp](?!\w))
    """,
    re.VERBOSE,
)
# Something of this is in whatever that pattern finds; most texts hold none of it.
_SIGN = re.compile(rf"[@{{$#%_]|://|www\.|{UNIT.pattern}")
_NUMBER = re.compile(r"\d+(?:[.,:'’\u00a0\u202f]\d+)*")
_GROUPED = re.compile(r"\d{1,3}(?:[.,'’\u00a0\u202f]\d{3})+")
_POINT_DECIMALS = frozenset({"en", "ga", "he", "hi", "ja", "ko", "th", "zh"})
_SWAPPED = str.maketrans(".,", ",.")

# Words that models of everyday language copy: given names for what stands like a name, numbers for a count.
_NAMES = (("Tom", "Maria", "Peter", "Anna", "John", "Paul"), ("Boston", "Berlin", "Paris", "London", "Rom"))
_COUNTS = (("57", "83", "46", "92", "74", "38"), ("26", "47", "64", "95", "39", "73"))
MASK_SETS = len(_NAMES)

# A small number may be written out; what it is called, by language and in order from zero.
_WORDS = {
    "en": "zero one two three four five six seven eight nine ten eleven twelve",
    "de": "null ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
}
_SPELLED = {language: words.split() for language, words in _WORDS.items()}


class Unit(NamedTuple):
    """A stretch of the source that is put back as it was."""

    text: str
    kind: str  # "name", "argument" (of printf, which counts them), "count" (an argument that is a number)
    raw: bool = False  # markup: not escaped when it is put back


@dataclass
class Units:
    """The units of one text."""

    _units: dict[str, Unit] = field(default_factory=dict)

    def add(self, unit: Unit) -> str:
        """The character that stands for the unit from now on; its own text when there are too many."""
        character = chr(_FIRST + len(self._units))
        if ord(character) > _LAST:
            return unit.text
        self._units[character] = unit
        return character

    def take(self, text: str) -> str:
        """The text with everything that must survive as units."""
        if not _SIGN.search(text):
            return text
        return _PROTECTED.sub(lambda match: self.add(Unit(match.group(), match.lastgroup or "")), text)

    def kind(self, character: str) -> str:
        """What kind of unit stands at this character."""
        return self._units[character].kind

    def resolve(self, text: str, escape: Callable[[str], str]) -> str:
        """The text with its units put back; everything but markup is escaped."""
        if not self._units:
            return escape(text)
        pieces, end = [], 0
        for match in UNIT.finditer(text):
            unit = self._units.get(match.group(), Unit(match.group(), "name"))
            pieces += [escape(text[end : match.start()]), unit.text if unit.raw else escape(unit.text)]
            end = match.end()
        return "".join([*pieces, escape(text[end:])])


class Span(NamedTuple):
    """A stretch of a sentence that the model must not see as it is."""

    start: int
    end: int
    kind: str  # a unit's, or "number"


def unit_spans(sentence: str, units: Units) -> list[Span]:
    """Where the units of a sentence are."""
    return [Span(*match.span(), units.kind(match.group())) for match in UNIT.finditer(sentence)]


def numbers(text: str) -> list[Span]:
    """Numbers written in digits, with their marks for thousands and decimals."""
    return [Span(*match.span(), "number") for match in _NUMBER.finditer(text)]


def lost_numbers(source: str, target: str, language: str) -> list[Span]:
    """Numbers of the source that the translation has neither so nor as other languages write them."""
    found = numbers(source)
    if not found:
        return []
    there = Counter(_NUMBER.findall(target))
    spelled = _SPELLED.get(language, ())
    lost = []
    for span in found:
        number = source[span.start : span.end]
        form = next((one for one in _forms(number) if there[one]), None)
        if form is not None:
            there[form] -= 1
        elif not (len(number) <= 2 and int(number) < len(spelled) and spelled[int(number)] in target.lower()):
            lost.append(span)
    return lost


def _forms(number: str) -> list[str]:
    """The number with points and commas exchanged, and without marks for thousands."""
    forms = [number, number.translate(_SWAPPED)]
    if _GROUPED.fullmatch(number):
        forms += [
            "".join(filter(str.isdigit, number)),
            re.sub(r"\D", ",", number),
            re.sub(r"\D", ".", number),
        ]
    return forms


@dataclass(frozen=True)
class Mask:
    """A word that stands for a span of the sentence, at offset `at` of the masked text."""

    word: str
    original: str
    at: int
    span: Span

    @property
    def ordered(self) -> bool:
        """Whether its place among its like has a meaning."""
        return self.span.kind in ("argument", "count")


@dataclass(frozen=True)
class Masked:
    """A sentence as the model sees it, and how to come back."""

    text: str
    masks: tuple[Mask, ...] = ()
    shout: bool = False  # it was all capitals, which models hardly know; the translation becomes so again

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(rf"\b{re.escape(mask.word)}(?![^\W_])" for mask in self.masks))

    def is_whole(self, target: str) -> bool:
        """Whether every mask is there, once, and those that count arguments in their order."""
        if not self.masks:
            return True
        found = self._pattern.findall(target)
        ordered = [mask.word for mask in self.masks if mask.ordered]
        return sorted(found) == sorted(mask.word for mask in self.masks) and ordered == [
            word for word in found if word in ordered
        ]

    def restored(self, target: str, write: Callable[[str], str] = str) -> str:
        """The translation, or a part of it, with the originals in it; `write`: numbers for its language."""
        if not self.masks:
            return target.upper() if self.shout else target
        originals = {
            mask.word: write(mask.original) if mask.span.kind == "number" else mask.original
            for mask in self.masks
        }
        pieces, end = [], 0
        for match in self._pattern.finditer(target):
            between = target[end : match.start()]
            pieces += [between.upper() if self.shout else between, originals[match.group()]]
            end = match.end()
        rest = target[end:]
        return "".join([*pieces, rest.upper() if self.shout else rest])

    def source_position(self, position: int) -> int:
        """Where in the sentence a place of the masked text is."""
        shift = 0
        for mask in self.masks:
            if position < mask.at:
                break
            if position < mask.at + len(mask.word):
                return mask.span.start
            shift = mask.span.end - mask.at - len(mask.word)
        return position + shift


def localised(number: str, source: str, target: str) -> str:
    """A number with marks for thousands as the target language writes it; others may be anything: kept."""
    differ = (source in _POINT_DECIMALS) != (target in _POINT_DECIMALS)
    return number.translate(_SWAPPED) if differ and _GROUPED.fullmatch(number) else number


def masked(sentence: str, protected: Sequence[Span], choice: int) -> Masked | None:
    """The sentence with masks for these spans; None if set `choice` has not so many."""
    names = (word for word in _NAMES[choice] if word.lower() not in sentence.lower())
    counts = (word for word in _COUNTS[choice] if word not in sentence)
    pieces: list[str] = []
    masks: list[Mask] = []
    length = end = 0
    for span in protected:
        word = next(counts if span.kind in ("count", "number") else names, None)
        if word is None:
            return None
        pieces += [sentence[end : span.start], word]
        length += span.start - end
        masks.append(Mask(word, sentence[span.start : span.end], length, span))
        length, end = length + len(word), span.end
    text = "".join([*pieces, sentence[end:]])
    shout = _is_shouted(sentence, protected)
    return Masked(_lowered(text, masks) if shout else text, tuple(masks), shout)


def _is_shouted(sentence: str, protected: Sequence[Span]) -> bool:
    """Several words, all in capitals; a single one may be an acronym."""
    for span in reversed(protected):
        sentence = sentence[: span.start] + " " + sentence[span.end :]
    if not sentence.isupper():
        return False
    words = [word for word in sentence.split() if sum(map(str.isalpha, word)) > 1]
    return len(words) > 2 or (len(words) == 2 and max(map(len, words)) > 4)


def _lowered(text: str, masks: Sequence[Mask]) -> str:
    """The text in small letters but for the first one and the masks, at the same places."""
    small = "".join(low if len(low := letter.lower()) == 1 else letter for letter in text)
    first = next((at for at, letter in enumerate(small) if letter.isalpha()), 0)
    small = small[:first] + text[first] + small[first + 1 :]
    for mask in masks:
        small = small[: mask.at] + mask.word + small[mask.at + len(mask.word) :]
    return small
