"""One sentence through the engine: as it is or with masks, then in parts around what must survive.

A translation is taken only if everything that must survive is in it. What the model loses is tried again with
other masks; at last the sentence is translated around its placeholders and numbers, which cannot lose them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from kserve.segment import has_letters
from kserve.text.place import TOKEN, Word, kept_words
from kserve.text.protect import (
    MASK_SETS,
    Masked,
    Span,
    Units,
    localised,
    lost_numbers,
    masked,
    numbers,
    unit_spans,
)
from kserve.tokenizer import Tokenizer

_LAST = MASK_SETS + 2  # attempts: with each set of masks, around what was lost, around all there is


class Found(Protocol):
    """What the engine says about one translation of token ids."""

    @property
    def tokens(self) -> list[int]: ...
    @property
    def score(self) -> float: ...
    @property
    def log_probability(self) -> float: ...
    @property
    def token_log_probabilities(self) -> list[float]: ...
    @property
    def alignment(self) -> list[int]: ...
    @property
    def truncated(self) -> bool: ...
    @property
    def looped(self) -> bool: ...
    @property
    def timed_out(self) -> bool: ...


@dataclass(frozen=True)
class Codec:
    """What the text side has to know of a model."""

    tokenizer: Tokenizer
    source_language: str
    target_language: str
    max_source_tokens: int


@dataclass(frozen=True)
class Candidate:
    """One translation of a sentence; units are still characters in it."""

    text: str
    found: tuple[Found, ...]  # of the parts that the engine saw
    words: tuple[Word, ...] = ()  # with alignment only
    sources: tuple[tuple[int, ...], ...] = ()  # ids that the engine saw of each part

    @property
    def tokens(self) -> int:
        """Tokens made, end tokens included."""
        return sum(len(one.token_log_probabilities) for one in self.found)

    @property
    def log_probability(self) -> float:
        """Base e, all parts together."""
        return sum(one.log_probability for one in self.found)


@dataclass(frozen=True)
class _Part:
    """A stretch of the sentence for the engine: what it sees of it, and where it begins."""

    masked: Masked
    start: int
    ids: list[int]
    spans: list[tuple[int, int]]
    is_fragment: bool


class Sentence:
    """A sentence at offset `start` of its block, until its translations are found."""

    def __init__(self, text: str, start: int, units: Units, codec: Codec, align: bool) -> None:
        self.text, self.start, self.units, self.codec, self.align = text, start, units, codec, align
        self.candidates: list[Candidate] = []
        self.attempts = 0
        self._protected = unit_spans(text, units)
        self._pieces: list[str | _Part] = []
        self._next()

    @property
    def parts(self) -> list[_Part]:
        """What the engine is to translate for the present attempt."""
        return [piece for piece in self._pieces if isinstance(piece, _Part)]

    @property
    def is_plain(self) -> bool:
        """Whether the tokens of this attempt are those of the translation: no masks, no capitals put back."""
        parts = self.parts
        return len(parts) == len(self._pieces) == 1 and not (parts[0].masked.masks or parts[0].masked.shout)

    def take(self, found: Sequence[Sequence[Found]]) -> None:
        """Translations of the present attempt's parts; without candidates afterwards another one is due."""
        if len(self._pieces) > 1:
            tried = [self._joined(found, rank) for rank in range(max(map(len, found), default=1))]
        else:
            part = self.parts[0]
            tried = [self._candidate(part, one) for one in found[0] if self._is_whole(part, one)]
        if any(one.timed_out for part in found for one in part):
            self.candidates = tried or [self._kept()]  # there is no time for another attempt
            return
        tried = [one for one in tried if one.text.strip()]
        if self.attempts == _LAST:
            self.candidates = tried or [self._kept()]
            return
        self.candidates = [one for one in tried if not self._lost(one.text)]
        if not self.candidates:
            lost = self._lost(tried[0].text) if tried else []
            self._protected = sorted({*self._protected, *lost})
            self._next()

    def _next(self) -> None:
        """The next attempt: masks of set 0, of set 1, parts around what was lost, around all numbers."""
        choice = self.attempts
        self.attempts += 1
        hidden = masked(self.text, self._protected, choice) if choice < MASK_SETS else None
        if not hidden and self.attempts < _LAST - 1:
            self.attempts = _LAST - 1
        if self.attempts == _LAST:
            self._protected = sorted({*self._protected, *numbers(self.text)})
        self._pieces = [self._part(hidden, 0)] if hidden else self._around()
        if not self.parts or (choice == 0 and not self._is_known(self.parts[0])):
            self._pieces = [self.text]
            self.candidates = [self._kept()]

    def _kept(self) -> Candidate:
        return Candidate(self.text, (), tuple(kept_words(self.text, self.start)))

    def _is_known(self, part: _Part) -> bool:
        """A sentence in a script that the vocabulary lacks says nothing to the model: it is kept as it is."""
        tokenizer = self.codec.tokenizer
        return tokenizer.knows(tokenizer.encode(self.text) if part.masked.masks else part.ids)

    def _around(self) -> list[str | _Part]:
        """The sentence in parts between what is protected."""
        pieces: list[str | _Part] = []
        end = 0
        for span in [*self._protected, Span(len(self.text), len(self.text), "")]:
            if span.start < end:
                continue
            between = self.text[end : span.start]
            core = between.strip()
            if has_letters(core):
                at = between.index(core)
                hidden = Masked(core)
                part = self._part(hidden, end + at)
                known = self.codec.tokenizer.knows(part.ids)
                pieces += [between[:at], part if known else core, between[at + len(core) :]]
            else:
                pieces.append(between)
            original = self.text[span.start : span.end]
            pieces.append(self._number(original) if span.kind == "number" else original)
            end = span.end
        return [piece for piece in pieces if piece]

    def _part(self, hidden: Masked, start: int) -> _Part:
        is_fragment = len(hidden.text) < len(self.text) and not hidden.masks
        if self.align:
            return _Part(hidden, start, *self.codec.tokenizer.encode_spans(hidden.text), is_fragment)
        return _Part(hidden, start, self.codec.tokenizer.encode(hidden.text), [], is_fragment)

    def _number(self, number: str) -> str:
        return localised(number, self.codec.source_language, self.codec.target_language)

    def _lost(self, target: str) -> list[Span]:
        return lost_numbers(self.text, target, self.codec.target_language)

    def _joined(self, found: Sequence[Sequence[Found]], rank: int) -> Candidate:
        chosen = iter([one[min(rank, len(one) - 1)] for one in found])
        texts: list[str] = []
        words: list[Word] = []
        taken: list[Found] = []
        sources: list[tuple[int, ...]] = []
        start = self.start
        for piece in self._pieces:
            if isinstance(piece, str):
                one = Candidate(piece, (), tuple(kept_words(piece, start)) if self.align else ())
                start += len(piece)
            else:
                one = self._candidate(piece, next(chosen))
                start = self.start + piece.start + len(piece.masked.text)
            texts.append(one.text)
            words += one.words
            taken += one.found
            sources += one.sources
        return Candidate("".join(texts), tuple(taken), tuple(words), tuple(sources))

    def _candidate(self, part: _Part, found: Found) -> Candidate:
        text, spans = self._decoded(part, found)
        words: list[Word] = []
        if self.align:
            places = self._places(part, found, spans)
            for match in TOKEN.finditer(text):
                over = [place for start, end, place in places if start < match.end() and match.start() < end]
                words.append(Word(part.masked.restored(match.group(), self._number), tuple(over)))
        restored = part.masked.restored(text, self._number)
        return Candidate(restored, (found,), tuple(words), (tuple(part.ids),))

    def _is_whole(self, part: _Part, found: Found) -> bool:
        return not part.masked.masks or part.masked.is_whole(self._decoded(part, found)[0])

    def _decoded(self, part: _Part, found: Found) -> tuple[str, list[tuple[int, int]]]:
        spans: list[tuple[int, int]] = []
        if not self.align:
            text = self.codec.tokenizer.decode(found.tokens)
        else:
            text, spans = self.codec.tokenizer.decode_spans(found.tokens)
        # A part of a sentence has no end of its own.
        if part.is_fragment and text.endswith(".") and not part.masked.text.endswith("."):
            text = text[:-1]
        return text, spans

    def _places(
        self, part: _Part, found: Found, spans: Sequence[tuple[int, int]]
    ) -> list[tuple[int, int, int]]:
        """(start, end, place): target text from start to end stands for the source's character at place."""
        places = []
        for (start, end), source in zip(spans, found.alignment, strict=False):
            if source < len(part.spans) and start < end:
                last = max(part.spans[source][1] - 1, 0)  # a piece begins with the space before it
                places.append((start, end, self.start + part.start + part.masked.source_position(last)))
        return places
