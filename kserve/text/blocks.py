"""A document as what is translated and what is kept.

A document is a list of pieces: strings, which come back as they are, and blocks. A block is text that is
translated as one, such as a paragraph, with inline elements over it (`<b>`, a run of a word processor). In a
translation every element is there once, around the words that stand for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from kserve.segment import has_letters
from kserve.text.protect import Unit, Units

if TYPE_CHECKING:
    from kserve.text.place import Word


_DEEPEST = 100  # elements within each other; deeper ones are points


@dataclass
class Element:
    """An inline element over block.text[start:end], or a point if start == end; children lie within."""

    start: int
    end: int
    opening: Markup = ""
    closing: str = ""
    style: str | None = None  # how text directly within is written, where a format has such a thing
    children: list[Element] = field(default_factory=list)

    @property
    def is_point(self) -> bool:
        """An empty element, or half of one whose other half is elsewhere."""
        return self.start == self.end


@dataclass
class Block:
    """Text to translate; `units` holds what in it must survive, `raw` is the block as it was."""

    text: str
    root: Element
    units: Units
    raw: list[Markup]
    write: Callable[[str, str | None], str]  # text in a style, escaped, units not yet put back
    lines: bool = False  # whether a line break ends a sentence
    arrange: Arrange | None = None  # how a translation is laid out, where elements are not enough

    def resolve(self, text: str, style: str | None = None) -> str:
        """Text as it stands in the document: written in a style, escaped, with its units."""
        return self.units.resolve(text, lambda part: self.write(part, style))


# From the words of a translation, and a function that brings text into the document's form.
Arrange: TypeAlias = "Callable[[Sequence[Word], Callable[[str], str]], Document]"
Piece: TypeAlias = "str | Block"
Document: TypeAlias = list[Piece]
Markup: TypeAlias = "str | Document"  # a document within an element: a footnote, a text box


@dataclass
class Builder:
    """Collects the text and the elements of one block, in order."""

    write: Callable[[str, str | None], str]
    lines: bool = False
    protect: bool = True  # whether placeholders in the text become units
    _text: list[str] = field(default_factory=list)
    _length: int = 0
    _raw: list[Markup] = field(default_factory=list)
    _units: Units = field(default_factory=Units)
    _open: list[tuple[str, Element]] = field(default_factory=lambda: [("", Element(0, 0))])

    def __len__(self) -> int:
        return self._length

    def text(self, text: str, raw: Markup) -> None:
        """Text, as it is read and as it stood in the document."""
        self._add(self._units.take(text) if self.protect else text, raw)

    def unit(self, raw: str) -> None:
        """Markup that stands among the words like one of them, such as an inline piece of code."""
        self._add(self._units.add(Unit(raw, "name", raw=True)), raw)

    def point(self, raw: Markup) -> None:
        """An element without text."""
        self._raw.append(raw)
        self._open[-1][1].children.append(Element(self._length, self._length, raw))

    def open(self, name: str, raw: str, style: str | None = None) -> None:
        """The start of an element."""
        if len(self._open) > _DEEPEST:
            self.point(raw)
            return
        self._raw.append(raw)
        element = Element(self._length, self._length, raw, style=style)
        self._open[-1][1].children.append(element)
        self._open.append((name, element))

    def close(self, name: str, raw: str) -> None:
        """The end of an element. One that was not opened here is a point; so are those left open in it."""
        self._raw.append(raw)
        if name not in [one for one, _ in self._open[1:]]:
            self._open[-1][1].children.append(Element(self._length, self._length, raw))
            return
        while (top := self._open.pop())[0] != name:
            self._leave(top[1])
        top[1].end, top[1].closing = self._length, raw

    def finish(self) -> Document:
        """The pieces, when all is in."""
        while len(self._open) > 1:
            self._leave(self._open.pop()[1])
        root = self._open[0][1]
        root.end = self._length
        text = "".join(self._text)
        block = Block(text, root, self._units, self._raw, self.write, self.lines)
        return [block] if has_letters(text) else pieces_of(block.raw)

    def _add(self, text: str, raw: Markup) -> None:
        self._text.append(text)
        self._raw.append(raw)
        self._length += len(text)

    def _leave(self, element: Element) -> None:
        """An element without an end becomes a point before what it would have held."""
        parent = self._open[-1][1]
        parent.children += element.children
        element.children = []


def pieces_of(markup: list[Markup]) -> Document:
    """Markup as the pieces of a document."""
    pieces: Document = []
    for one in markup:
        pieces += [one] if isinstance(one, str) else one
    return pieces
