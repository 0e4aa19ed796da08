"""Paragraphs of DOCX. Runs of one form are one stretch of text; the most common form is the paragraph's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kserve.text.blocks import Block, Builder, Document, Markup, pieces_of
from kserve.text.files.archive import Archive
from kserve.text.files.paragraphs import ParagraphReader, element, escape, plain, raw_of
from kserve.text.tags import Tag

_PARTS = re.compile(r"word/(?:document|header\d*|footer\d*|footnotes|endnotes)\.xml")
_CHARACTERS = {"w:tab": "\t", "w:br": "\n", "w:cr": "\n", "w:noBreakHyphen": "\u2011"}
_TEXT = {"\t": "<w:tab/>", "\n": "<w:br/>", "\u2011": "<w:noBreakHyphen/>"}
_CUT = re.compile("([\t\n\u2011])")
# Traces of the last time the file was open; they would only tear words apart.
_DROPPED = frozenset({"w:lastRenderedPageBreak", "w:proofErr"})


def word_parts(archive: Archive, protect: bool) -> dict[str, Document]:
    """The XML parts with text, by name."""
    archive.text("word/document.xml")
    names = [name for name in archive.entries if _PARTS.fullmatch(name)]
    return {name: _WordReader(protect).document(archive.text(name)) for name in names}


@dataclass(frozen=True)
class _Item:
    """A piece of a paragraph: text in a form (`w:rPr`), or markup that is kept, opens or closes."""

    kind: str
    text: str = ""
    form: str = ""
    markup: Markup = ""


class _WordReader(ParagraphReader):
    paragraphs = frozenset({"w:p"})
    containers = frozenset(
        {"w:drawing", "w:pict", "w:object", "mc:AlternateContent", "w:del", "w:moveFrom", "w:sdt", "m:oMath",
         "m:oMathPara", "w:ruby"}
    )  # fmt: skip

    def paragraph(self, tokens: Sequence[Tag]) -> Document:
        """Properties come first and stay; then the text."""
        stream = iter(tokens)
        head: list[Tag] = []
        items: list[_Item] = []
        raw: list[Markup] = []
        for tag in stream:
            if tag.name == "w:pPr" and not items:
                head += [tag, *(element(stream, tag.name) if tag.kind == "open" else ())]
                continue
            inside = element(stream, tag.name) if self._has_content(tag) else []
            found = list(self._items(tag, inside))
            items += found
            nested = [item.markup for item in found if not isinstance(item.markup, str)]
            raw += nested or [raw_of([tag, *inside])]
        return [raw_of(head), *self._written(_fields(items), raw)]

    def _has_content(self, tag: Tag) -> bool:
        return tag.kind == "open" and (tag.name == "w:r" or tag.name in self.containers)

    def _items(self, tag: Tag, inside: Sequence[Tag]) -> Iterator[_Item]:
        if tag.name == "w:r" and inside:
            yield from self._run(tag, inside[:-1])
        elif tag.name in self.containers:
            yield _Item("point", markup=self.container([tag, *inside]))
        elif tag.name in _DROPPED:
            return
        else:
            yield _Item(tag.kind if tag.kind in ("open", "close") else "point", tag.name, markup=tag.raw)

    def _run(self, run: Tag, tokens: Sequence[Tag]) -> Iterator[_Item]:
        stream = iter(tokens)
        form = ""
        for tag in stream:
            inside = element(stream, tag.name) if tag.kind == "open" else []
            if tag.name == "w:rPr":
                form = raw_of([tag, *inside])
            elif tag.name == "w:t":
                text = "".join(plain(one.raw) for one in inside if one.kind == "text")
                yield _Item("text", text, form, f"{run.raw}{form}{raw_of([tag, *inside])}</w:r>")
            elif tag.name in _CHARACTERS and tag.raw.rstrip("/> ") == f"<{tag.name}":
                yield _Item("text", _CHARACTERS[tag.name], form, f"{run.raw}{form}{tag.raw}</w:r>")
            elif tag.name not in _DROPPED and tag.kind != "text":
                markup = self.container([tag, *inside])
                start = f"{run.raw}{form}"
                whole = (
                    [start, *markup, "</w:r>"] if not isinstance(markup, str) else f"{start}{markup}</w:r>"
                )
                kind = {"begin": "begin", "end": "end"}.get(_field_mark(tag), "point")
                yield _Item(kind, markup=whole)

    def _written(self, items: Sequence[_Item], raw: list[Markup]) -> Document:
        forms: Counter[str] = Counter()
        for item in items:
            if item.kind == "text":
                forms[item.form] += len(item.text)
        base = max(forms, key=lambda form: forms[form], default="")
        builder = Builder(lambda text, form: _runs(text, base if form is None else form), True, self.protect)
        for item in items:
            _add(builder, item, base)
        pieces = builder.finish()
        if not (pieces and isinstance(pieces[0], Block)):
            return pieces_of(raw)
        pieces[0].raw = raw
        return pieces


def _add(builder: Builder, item: _Item, base: str) -> None:
    if item.kind == "text" and item.form == base:
        builder.text(item.text, "")
    elif item.kind == "text":
        builder.open("run", "", item.form)
        builder.text(item.text, "")
        builder.close("run", "")
    elif item.kind == "open" and isinstance(item.markup, str):
        builder.open(item.text, item.markup)
    elif item.kind == "close" and isinstance(item.markup, str):
        builder.close(item.text, item.markup)
    elif item.kind == "unit" and isinstance(item.markup, str):
        builder.unit(item.markup)
    else:
        builder.point(item.markup)


def _fields(items: Sequence[_Item]) -> list[_Item]:
    """Text runs of one form joined, and each field (a page number, a reference) as one unit."""
    result: list[_Item] = []
    field: list[str] = []
    depth = 0
    for item in items:
        depth += item.kind == "begin"
        if depth:
            field.append(item.markup if isinstance(item.markup, str) else "")
            depth -= item.kind == "end"
            if not depth:
                result.append(_Item("unit", markup="".join(field)))
                field = []
        elif item.kind == "text" and result and result[-1].kind == "text" and result[-1].form == item.form:
            result[-1] = _Item("text", result[-1].text + item.text, item.form)
        else:
            result.append(item)
    return [*result, *([_Item("point", markup="".join(field))] if field else [])]


def _field_mark(tag: Tag) -> str:
    return tag.attributes().get("w:fldchartype", "") if tag.name == "w:fldChar" else ""


def _runs(text: str, form: str) -> str:
    """Text as a run; tabs and line breaks are elements."""
    parts = [
        _TEXT.get(part) or f'<w:t xml:space="preserve">{escape(part)}</w:t>'
        for part in _CUT.split(text)
        if part
    ]
    return f"<w:r>{form}{''.join(parts)}</w:r>" if parts else ""
