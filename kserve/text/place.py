"""Inline elements put around the words of a translation that stand for theirs: by alignment, whole words."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from kserve.text.blocks import Block, Document, Element, pieces_of
from kserve.text.protect import UNIT

# Words hold together what an apostrophe or a hyphen joins; all else that is no space is one character.
TOKEN = re.compile(r"\w+(?:['’\-‑]\w+)*|\s+|[^\w\s]")
_EDGE = re.compile(r"\S")


@dataclass(frozen=True)
class Word:
    """A word, a mark or space of a translation, and the places of the block's text that it stands for."""

    text: str
    sources: tuple[int, ...] = ()

    @property
    def is_word(self) -> bool:
        """Neither space nor a mark."""
        return self.text[0].isalnum() or UNIT.match(self.text) is not None

    @property
    def is_mark(self) -> bool:
        """Neither space nor a word."""
        return not self.is_word and not self.text.isspace()

    def share(self, element: Element) -> float:
        """How much of the word stands for text of the element: 0 to 1."""
        inside = sum(element.start <= place < element.end for place in self.sources)
        return inside / len(self.sources)


def kept_words(text: str, start: int) -> list[Word]:
    """Text that is kept, at offset `start` of the block: every word stands for itself."""
    return [Word(match.group(), (start + match.start(),)) for match in TOKEN.finditer(text)]


def placed(block: Block, words: Sequence[Word]) -> Document:
    """The block's translation with its elements in it."""
    return _Placing(block, words).inside(block.root, (0, len(words)))


class _Placing:
    def __init__(self, block: Block, words: Sequence[Word]) -> None:
        self.block, self.words = block, words
        self._starts = [match.start() for match in TOKEN.finditer(block.text)]  # of the source's words
        self._standing: dict[int, list[int]] = {}  # number of a source word -> words that stand for it
        for at, word in enumerate(words):
            for number in {self._number(place) for place in word.sources}:
                self._standing.setdefault(number, []).append(at)

    def inside(self, element: Element, span: tuple[int, int], style: str | None = None) -> Document:
        """What stands within an element that has words[span]."""
        style = element.style or style
        low, high = span
        pieces: Document = []
        for child, start, end in self._children(element, low, high):
            pieces.append(self._written(low, start, style))
            pieces += self._opening(child, start)
            pieces += self.inside(child, (start, end), style)
            pieces.append(child.closing)
            low = end
        pieces.append(self._written(low, high, style))
        return [piece for piece in pieces if piece]

    def _opening(self, element: Element, at: int) -> Document:
        """An element's beginning; a point that stood between spaces does so again."""
        text = self.block.text
        opening = pieces_of([element.opening])
        spaced = text[max(element.start - 1, 0) : element.start + 1].isspace() and 0 < at < len(self.words)
        if not element.is_point or not 0 < element.start < len(text) or not spaced:
            return opening
        around = self.words[at - 1].text, self.words[at].text
        before = "" if around[0].isspace() else " "
        after = "" if around[1].isspace() or (around[0].isspace() and len(around[0]) > 1) else " "
        return [before, *opening, after]

    def _written(self, low: int, high: int, style: str | None) -> str:
        text = "".join(word.text for word in self.words[low:high])
        return self.block.resolve(text, style) if text else ""

    def _children(self, parent: Element, low: int, high: int) -> list[tuple[Element, int, int]]:
        """Where each child goes: intervals that do not overlap, the surest first, points last."""
        taken = bytearray(high - low)  # 1: within a child, 2: its first word
        spans: dict[int, tuple[int, int]] = {}
        found = [
            (self._best(one, low, high), at) for at, one in enumerate(parent.children) if not one.is_point
        ]
        for (_, start, end), at in sorted(found, key=lambda one: (-one[0][0], one[1])):
            start, end = _free(taken, start - low, end - low)
            taken[start:end] = b"\2" + b"\1" * (end - start - 1) if end > start else b""
            spans[at] = (start + low, end + low)
        for at, child in enumerate(parent.children):
            if child.is_point:
                place = min(max(self._point(child.start, low, high), low), high)
                while low < place < high and taken[place - low] == 1:  # not into another element
                    place += 1
                spans[at] = (place, place)
        ordered = sorted(spans.items(), key=lambda one: (*one[1], one[0]))
        return [(parent.children[at], start, end) for at, (start, end) in ordered]

    def _best(self, child: Element, low: int, high: int) -> tuple[float, int, int]:
        """The interval with the most words of the child and the fewest of others: (score, start, end)."""
        numbers = range(self._number(child.start), self._number(child.end - 1) + 1)
        standing = [at for number in numbers for at in self._standing.get(number, ()) if low <= at < high]
        if not standing:
            return (0.0, *self._nearest(child, low, high))
        best, run, start = (0.0, low, low), 0.0, low
        for at in range(min(standing), max(standing) + 1):
            word = self.words[at]
            if run <= 0:
                run, start = 0.0, at
            if word.is_word and word.sources:
                run += 2 * word.share(child) - 1
            if run > best[0]:
                best = (run, start, at + 1)
        if best[0] <= 0:
            return (0.0, *self._nearest(child, low, high))
        return (best[0], *self._with_marks(child, best[1:], (low, high)))

    def _with_marks(self, child: Element, found: tuple[int, int], within: tuple[int, int]) -> tuple[int, int]:
        """Without space and marks at the edges, but with those that the child's own text has there."""
        start, end = found
        while start < end and not self.words[start].is_word:
            start += 1
        while end > start and not self.words[end - 1].is_word:
            end -= 1
        source = self.block.text[child.start : child.end].strip()
        while start > within[0] and self.words[start - 1].is_mark and not source[0].isalnum():
            start -= 1
        while end < within[1] and self.words[end].is_mark and not source[-1].isalnum():
            end += 1
        return start, end

    def _nearest(self, child: Element, low: int, high: int) -> tuple[int, int]:
        """One word about where the child was, when no word stands for its text."""
        wanted = min(max(self._proportional((child.start + child.end) // 2), low), high)
        for distance in range(max(wanted - low, high - wanted) + 1):
            for at in (wanted + distance, wanted - distance):
                if low <= at < high and self.words[at].is_word:
                    return at, at + 1
        return wanted, wanted

    def _point(self, source: int, low: int, high: int) -> int:
        """Before the word that follows it, or after the one before it, whichever it touches."""
        text = self.block.text
        following = _EDGE.search(text, source)
        before = source - 1
        while before >= 0 and text[before].isspace():
            before -= 1
        if before < 0 or following is None:
            return low if before < 0 else high
        places = [(following.start(), 0), (before, 1)]
        for place, shift in reversed(places) if before == source - 1 < following.start() - 1 else places:
            found = [at for at in self._standing.get(self._number(place), ()) if low <= at < high]
            if found:
                return found[-1] + 1 if shift else found[0]
        return self._proportional(source)

    def _number(self, place: int) -> int:
        """Which of the source's words is at this place."""
        return bisect_right(self._starts, place) - 1

    def _proportional(self, source: int) -> int:
        return round(source / max(len(self.block.text), 1) * len(self.words))


def _free(taken: bytearray, start: int, end: int) -> tuple[int, int]:
    """The first free stretch of an interval; an empty one at its end if there is none."""
    while start < end and taken[start]:
        start += 1
    stop = start
    while stop < end and not taken[stop]:
        stop += 1
    while start == stop and 0 < stop < len(taken) and taken[stop] == 1:
        start = stop = stop + 1
    return start, stop
