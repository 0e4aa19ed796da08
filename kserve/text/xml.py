"""XML as blocks, as the tag handling of a translation request wants it: which tags part text, which are kept.

Without a word about it, elements beside text are inline, and all others part text (the document's outline).
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kserve.text.blocks import Builder, Document
from kserve.text.tags import Tag, tags

_CDATA = "<![CDATA["


@dataclass(frozen=True)
class XmlRules:
    """Names of elements; `outline`: find out which elements part text by looking at the document."""

    splitting: frozenset[str] = frozenset()
    inline: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    outline: bool = True


def parse_xml(source: str, rules: XmlRules, protect: bool = True) -> Document:
    """The document of an XML text or fragment."""
    tokens = list(tags(source, is_html=False))
    parting = _outline(tokens) if rules.outline else set()
    builder = Builder(escape, protect=protect)
    pieces: Document = []
    stream = iter(enumerate(tokens))
    for at, token in stream:
        if token.kind == "open" and token.name in rules.kept:
            builder.unit(_kept(token, stream))
        elif token.name in rules.splitting or (at in parting and token.name not in rules.inline):
            pieces += [*builder.finish(), token.raw]
            builder = Builder(escape, protect=protect)
        else:
            _add(builder, token)
    return pieces + builder.finish()


def escape(text: str, _: str | None = None) -> str:
    """Text as it stands between tags."""
    return html.escape(text, quote=False)


def _add(builder: Builder, token: Tag) -> None:
    if token.kind == "text":
        builder.text(html.unescape(token.raw), token.raw)
    elif token.kind == "open":
        builder.open(token.name, token.raw)
    elif token.kind == "close":
        builder.close(token.name, token.raw)
    elif token.raw.startswith(_CDATA):
        builder.text(token.raw[len(_CDATA) : -3], token.raw)
    else:
        builder.point(token.raw)


def _kept(first: Tag, stream: Iterator[tuple[int, Tag]]) -> str:
    raw, depth = [first.raw], 1
    for _, token in stream:
        raw.append(token.raw)
        if token.name == first.name:
            depth += {"open": 1, "close": -1}.get(token.kind, 0)
        if not depth:
            break
    return "".join(raw)


def _outline(tokens: Sequence[Tag]) -> set[int]:
    """Numbers of the tags whose parent holds no text of its own."""
    parting: set[int] = set()
    open_elements: list[tuple[str, list[int], bool]] = [
        ("", [], False)
    ]  # name, tags in it, whether it has text
    for at, token in enumerate(tokens):
        name, inside, has_text = open_elements[-1]
        if token.kind == "text" and token.raw.strip():
            open_elements[-1] = (name, inside, True)
        elif token.kind == "close" and len(open_elements) > 1:
            open_elements.pop()
            parting.update([] if has_text else inside)
            open_elements[-1][1].append(at)
        elif token.kind in ("open", "empty"):
            inside.append(at)
        if token.kind == "open":
            open_elements.append((token.name, [], False))
    for _, inside, has_text in open_elements:
        parting.update([] if has_text else inside)
    return parting
