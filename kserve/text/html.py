"""HTML as blocks: every stretch of words between block-level tags, with its inline tags.

Attributes, comments, scripts, styles, preformatted text and what is marked `translate="no"` come back as they
were; so does everything in which nothing was translated.
"""

from __future__ import annotations

import html
from collections.abc import Iterator

from kserve.text.blocks import Builder, Document
from kserve.text.tags import Tag, tags

# Elements that part no text; an unknown element is taken for one of these, as browsers do.
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "audio",
        "base",
        "blockquote",
        "body",
        "br",
        "button",
        "canvas",
        "caption",
        "center",
        "col",
        "colgroup",
        "dd",
        "details",
        "dialog",
        "dir",
        "div",
        "dl",
        "dt",
        "embed",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "frame",
        "frameset",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "header",
        "hgroup",
        "hr",
        "html",
        "legend",
        "li",
        "link",
        "main",
        "map",
        "menu",
        "meta",
        "nav",
        "ol",
        "optgroup",
        "option",
        "p",
        "param",
        "picture",
        "search",
        "section",
        "select",
        "source",
        "summary",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "title",
        "tr",
        "track",
        "ul",
        "video",
    ]
)
_VOID = frozenset(
    [
        "area",
        "base",
        "br",
        "col",
        "embed",
        "hr",
        "img",
        "input",
        "link",
        "meta",
        "param",
        "source",
        "track",
        "wbr",
    ]
)
# Never translated, with all they hold. The first ones stand among words like a word.
_KEPT_INLINE = frozenset(["code", "kbd", "samp", "tt", "var", "math", "svg"])
_KEPT = _KEPT_INLINE | frozenset(
    ["script", "style", "pre", "textarea", "xmp", "iframe", "noembed", "noframes", "object", "template"]
)


def parse_html(source: str, protect: bool = True) -> Document:
    """The document of an HTML text or fragment, however broken it is."""
    return _Parser(protect).parse(tags(source, is_html=True))


def escape(text: str, _: str | None = None) -> str:
    """Text as it stands between tags; a no-break space is shown as one."""
    return html.escape(text, quote=False).replace("\u00a0", "&nbsp;")


class _Parser:
    def __init__(self, protect: bool) -> None:
        self._protect = protect
        self._pieces: Document = []
        self._builder = self._fresh()

    def parse(self, tokens: Iterator[Tag]) -> Document:
        for token in tokens:
            if token.kind == "text":
                self._builder.text(html.unescape(token.raw), token.raw)
            elif token.kind == "other":
                self._builder.point(token.raw)
            elif token.kind == "open" and token.name not in _VOID and _is_kept(token):
                self._keep(token, tokens)
            elif token.name in _BLOCKS:
                self._flush()
                self._pieces.append(token.raw)
            elif token.kind == "empty" or token.name in _VOID:
                self._builder.point(token.raw)
            elif token.kind == "open":
                self._builder.open(token.name, token.raw)
            else:
                self._builder.close(token.name, token.raw)
        self._flush()
        return self._pieces

    def _keep(self, first: Tag, tokens: Iterator[Tag]) -> None:
        """An element with all it holds; one that never ends goes on to the end."""
        raw, depth = [first.raw], 1
        for token in tokens:
            raw.append(token.raw)
            if token.name == first.name:
                depth += {"open": 1, "close": -1}.get(token.kind, 0)
            if not depth:
                break
        kept = "".join(raw)
        if first.name in _BLOCKS or first.name in _KEPT - _KEPT_INLINE:
            self._flush()
            self._pieces.append(kept)
        else:
            self._builder.unit(kept)

    def _flush(self) -> None:
        self._pieces += self._builder.finish()
        self._builder = self._fresh()

    def _fresh(self) -> Builder:
        return Builder(escape, protect=self._protect)


def _is_kept(tag: Tag) -> bool:
    if tag.name in _KEPT:
        return True
    if "translate" not in tag.raw.lower():
        return False
    attributes = tag.attributes()
    classes = attributes.get("class", "").lower().split()
    return attributes.get("translate", "").lower() == "no" or "notranslate" in classes
