"""Paragraphs of ODT: text with spans and links in it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kserve.text.blocks import Builder, Document
from kserve.text.files.archive import Archive
from kserve.text.files.paragraphs import ParagraphReader, element, escape, plain
from kserve.text.tags import Tag

_CHARACTERS = {"text:tab": "\t", "text:line-break": "\n"}
_TEXT = {"\t": "<text:tab/>", "\n": "<text:line-break/>"}
_CUT = re.compile("([\t\n])")


def odt_parts(archive: Archive, protect: bool) -> dict[str, Document]:
    """The XML parts with text, by name: the content, and the styles for what stands at the page's edges."""
    names = [
        name for name in ("content.xml", "styles.xml") if name == "content.xml" or name in archive.entries
    ]
    return {name: _OdtReader(protect).document(archive.text(name)) for name in names}


class _OdtReader(ParagraphReader):
    paragraphs = frozenset({"text:p", "text:h"})
    containers = frozenset(
        {
            "text:note",
            "draw:frame",
            "draw:custom-shape",
            "draw:g",
            "office:annotation",
            "text:tracked-changes",
            "text:ruby",
            "text:page-number",
            "text:page-count",
            "text:date",
            "text:time",
            "text:sequence",
        }
    )

    def paragraph(self, tokens: Sequence[Tag]) -> Document:
        """Text and inline elements."""
        builder = Builder(_written, lines=True, protect=self.protect)
        stream = iter(tokens)
        for tag in stream:
            if tag.kind == "text":
                builder.text(plain(tag.raw), tag.raw)
            elif tag.name in _CHARACTERS and tag.kind == "empty":
                builder.text(_CHARACTERS[tag.name], tag.raw)
            elif tag.kind == "open" and tag.name in self.containers:
                builder.point(self.container([tag, *element(stream, tag.name)]))
            elif tag.kind == "open":
                builder.open(tag.name, tag.raw)
            elif tag.kind == "close":
                builder.close(tag.name, tag.raw)
            else:
                builder.point(tag.raw)
        return builder.finish()


def _written(text: str, _: str | None) -> str:
    return "".join(_TEXT.get(part) or escape(part) for part in _CUT.split(text))
