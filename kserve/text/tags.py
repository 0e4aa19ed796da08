"""HTML and XML as tokens that together are the source, character for character, however broken it is.

Own code because no library keeps the source: parsers build trees, and the one in the standard library that
tells positions takes quadratic time on broken input in the Python versions in use. This one is linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TAG = re.compile(r"<(/?)([A-Za-z][^\s/>]*)(?=[\s/>])(?:\"[^\"]*\"|'[^']*'|[^\"'>])*>")
_COMMENT_END = re.compile(r"--!?>")
_ATTRIBUTE = re.compile(r"(?<![^\s\"'/])([^\s\"'>/=]+)(?:\s*=\s*(\"[^\"]*\"|'[^']*'|[^\s\"'>]+))?")
# Elements whose content is not markup.
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes"})


@dataclass(frozen=True)
class Tag:
    """A piece of the source; `kind` is text, open, close, empty (`<x/>`) or other (comment, doctype)."""

    kind: str
    raw: str
    name: str = ""

    def attributes(self) -> dict[str, str]:
        """Its attributes by lower-case name."""
        found = _ATTRIBUTE.findall(self.raw[1 + len(self.name) : -1])
        return {name.lower(): value.strip("\"'") for name, value in found}


def tags(source: str, is_html: bool) -> Iterator[Tag]:
    """The tokens of the source; names are lower-case in HTML."""
    at = 0
    while at < len(source):
        start = source.find("<", at)
        if start < 0:
            start = len(source)
        if start > at:
            yield Tag("text", source[at:start])
        if start == len(source):
            return
        token, at = _markup(source, start, is_html)
        yield token
        if is_html and token.kind == "open" and token.name in _RAW:
            end = _raw_end(source, at, token.name)
            if end > at:
                yield Tag("text", source[at:end])
            at = end


def _markup(source: str, start: int, is_html: bool) -> tuple[Tag, int]:
    """The token at a `<`, and where it ends. What has no end goes on to the end of the source."""
    following = source[start + 1 : start + 2]
    if following in ("!", "?"):
        end = _declaration_end(source, start)
        return Tag("other", source[start:end]), end
    if not (following.isascii() and following.isalpha()) and following != "/":
        return Tag("text", "<"), start + 1
    match = _TAG.match(source, start)
    if match is None:
        # `</` before something else, or a tag that never ends.
        is_tag = following != "/" or source[start + 2 : start + 3].isalpha()
        end = len(source) if is_tag else start + 1
        return Tag("other" if is_tag else "text", source[start:end]), end
    name = match[2].lower() if is_html else match[2]
    kind = "close" if match[1] else "empty" if match[0].endswith("/>") else "open"
    return Tag(kind, match[0], name), match.end()


def _declaration_end(source: str, start: int) -> int:
    if source.startswith("<!--", start):
        match = _COMMENT_END.search(source, start + 4)
        return match.end() if match else len(source)
    closing = "]]>" if source.startswith("<![CDATA[", start) else ">"
    end = source.find(closing, start)
    return end + len(closing) if end >= 0 else len(source)


def _raw_end(source: str, at: int, name: str) -> int:
    match = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(source, at)
    return match.start() if match else len(source)
