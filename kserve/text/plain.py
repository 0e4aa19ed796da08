"""Plain text as one block: every line break ends a sentence; tags in it, as in `<x/>`, are kept in place."""

from __future__ import annotations

import re

from kserve.text.blocks import Builder, Document

# Tags, and the codes of subtitles such as {\\an8}.
_TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]*)(?:\s[^<>]*?)?(/?)>|\{\\[^{}\n]*\}")


def parse_plain(source: str, protect: bool = True, lines: bool = True) -> Document:
    """The document of a plain text; without `lines` a line break is only space."""
    builder = Builder(lambda text, _: text, lines=lines, protect=protect)
    end = 0
    for match in _TAG.finditer(source) if protect and ("<" in source or "{\\" in source) else ():
        builder.text(source[end : match.start()], source[end : match.start()])
        if match[3] or not match[2]:
            builder.point(match.group())
        elif match[1]:
            builder.close(match[2], match.group())
        else:
            builder.open(match[2], match.group())
        end = match.end()
    builder.text(source[end:], source[end:])
    return builder.finish()
