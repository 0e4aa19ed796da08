"""What DOCX and ODT have in common: XML in which paragraphs may hold containers that hold paragraphs."""

from __future__ import annotations

import html
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from kserve.text.blocks import Document, Markup
from kserve.text.tags import Tag, tags

_SPACE = re.compile(r"[ \t\r\n]+")
_DEEPEST = 30  # containers within each other


class ParagraphReader(ABC):
    """Finds the paragraphs of an XML part; what is in one is the format's own."""

    paragraphs: ClassVar[frozenset[str]]
    containers: ClassVar[frozenset[str]]  # elements within a paragraph that are no part of its text

    def __init__(self, protect: bool, depth: int = 0) -> None:
        self.protect, self.depth = protect, depth

    def document(self, source: str) -> Document:
        """The document of an XML part."""
        return self.read(list(tags(source, is_html=False)))

    def read(self, tokens: Sequence[Tag]) -> Document:
        """The pieces of a stretch of tokens."""
        pieces: Document = []
        stream = iter(tokens)
        for token in stream:
            pieces.append(token.raw)
            if token.kind == "open" and token.name in self.paragraphs:
                inside = element(stream, token.name)
                pieces += self.paragraph(inside[:-1])
                pieces += [tag.raw for tag in inside[-1:]]
        return pieces

    def container(self, tokens: Sequence[Tag]) -> Markup:
        """An element within a paragraph, with paragraphs of its own or not."""
        if self.depth >= _DEEPEST or not any(tag.name in self.paragraphs for tag in tokens):
            return raw_of(tokens)
        return type(self)(self.protect, self.depth + 1).read(tokens)

    @abstractmethod
    def paragraph(self, tokens: Sequence[Tag]) -> Document:
        """What is between the tags of a paragraph."""


def element(stream: Iterator[Tag], name: str) -> list[Tag]:
    """The tokens up to the end tag of an element that has just begun."""
    found, depth = [], 1
    for tag in stream:
        found.append(tag)
        if tag.name == name:
            depth += {"open": 1, "close": -1}.get(tag.kind, 0)
        if not depth:
            break
    return found


def raw_of(tokens: Sequence[Tag]) -> str:
    """The tokens as they stood in the source."""
    return "".join(tag.raw for tag in tokens)


def plain(raw: str) -> str:
    """Text between tags as it is read: entities resolved, white space as one space."""
    return html.unescape(_SPACE.sub(" ", raw))


def escape(text: str) -> str:
    """Text as it stands between tags; what XML cannot hold is left out."""
    allowed = "".join(one for one in text if one >= " " or one in "\t\n")
    return html.escape(allowed, quote=False)
