"""Markdown: paragraphs, headings, list items and table cells; code, HTML and all that surrounds text stay.

markdown-it finds the blocks and the lines on which their text is; what is inline in it is found here,
because no library tells where in its line an inline element is.
"""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt

from kserve.text.blocks import Builder, Document

_FRONT_MATTER = re.compile(r"\A---[ \t]*\r?\n.*?^(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(
    r"""
    (?P<code>(?<!`)(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))
  | (?P<point>!\[[^\]\n]*\]\([^()\s]*(?:[ ]"[^"\n]*")?\) | \[\^[^\]\s]+\] | \A\[[ xX]\](?=\s) | <!--.*?-->)
  | (?P<unlink>\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)*(?:[ ]+"[^"\n]*")?\) | \]\[[^\]\n]*\])
  | (?P<link>\[(?=[^\[\]\n]*\](?:\(|\[)))
  | (?P<auto><(?:https?:|mailto:)[^<>\s]*>)
  | (?P<tag><(?P<slash>/?)(?P<name>[A-Za-z][\w-]*)(?:\s[^<>]*)?(?P<empty>/?)>)
  | (?P<escape>\\[!-/:-@\[-`{-~])
  | (?P<mark>\*\*|__|~~|\*|_)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPECIAL = re.compile(r"([\\`*\[\]<])")
# What would make a block of another kind of a line that begins with it.
_LINE_START = re.compile(r"\A(\d{1,9})([.)])(?=\s)|\A([#+>-]|={2,}|-{2,})(?=\s|\Z)")


def parse_markdown(source: str, protect: bool = True) -> Document:
    """The document of a Markdown text (CommonMark with tables and strikethrough)."""
    front = _FRONT_MATTER.match(source)
    start = front.end() if front else 0
    lines = source[start:].splitlines(keepends=True)
    offsets = [start]
    for line in lines:
        offsets.append(offsets[-1] + len(line))
    pieces: Document = []
    end = 0
    for token in (
        MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(_plain_ends(source[start:]))
    ):
        if token.type != "inline" or token.map is None:
            continue
        spans = _located(source, token.content.split("\n"), offsets[token.map[0] : token.map[1] + 1], end)
        if spans:
            pieces.append(source[end : spans[0][0]])
            pieces += _inline(source, spans, protect)
            end = spans[-1][1]
    return [*pieces, source[end:]]


def _plain_ends(source: str) -> str:
    """CR LF, CR and LF as LF; other characters that Python takes for line ends do not end a line here."""
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _located(source: str, content: list[str], offsets: list[int], start: int) -> list[tuple[int, int]]:
    """Where the lines of an inline token are in the source; nothing if they are not as they stand there."""
    spans = []
    for line, low, high in zip(content, offsets, offsets[1:], strict=False):
        at = source.find(line, max(low, start), high)
        if at < 0:
            return []
        spans.append((at, at + len(line)))
        start = at + len(line)
    return spans if len(spans) == len(content) else []


def _inline(source: str, spans: list[tuple[int, int]], protect: bool) -> Document:
    """The lines of one block; two spaces or a backslash at a line's end end what is translated as one."""
    pieces: Document = []
    builder = Builder(_escape, protect=protect)
    for (start, end), following in zip(spans, [*spans[1:], None], strict=True):
        text = source[start:end]
        is_hard = following is not None and text.endswith(("\\", "  "))
        core = text.removesuffix("\\").rstrip(" ") if is_hard else text
        _add(builder, core)
        if following is None:
            break
        between = source[start + len(core) : following[0]]
        if is_hard:
            pieces += [*builder.finish(), between]
            builder = Builder(_escape, protect=protect)
        else:
            builder.text(" ", between)
    return pieces + builder.finish()


def _add(builder: Builder, text: str) -> None:
    end = 0
    opened: list[str] = []
    for match in _INLINE.finditer(text):
        side = _emphasis(text, match, opened) if match["mark"] else ""
        if match["mark"] and not side:
            continue  # a star that is only a star
        _plain(builder, text[end : match.start()])
        end = match.end()
        raw = match.group()
        if match["code"] or match["auto"]:
            builder.unit(raw)
        elif match["escape"]:
            builder.text(raw[1], raw)
        elif match["point"] or match["empty"]:
            builder.point(raw)
        elif match["link"] or side == "open" or (match["tag"] and not match["slash"]):
            builder.open(_name(match), raw)
        else:
            builder.close(_name(match), raw)
    _plain(builder, text[end:])


def _name(match: re.Match[str]) -> str:
    """What the two halves of an element have in common."""
    return match["mark"] or (match["name"] or "link").lower()


def _plain(builder: Builder, text: str) -> None:
    if text:
        builder.text(html.unescape(text), text)


def _emphasis(text: str, match: re.Match[str], opened: list[str]) -> str:
    """Whether a run of stars or the like opens (before a word) or closes (after one), or is only that."""
    mark = match.group()
    before, after = text[: match.start()][-1:], text[match.end() :][:1]
    if mark in opened and before.strip() and not (mark in "__" and after.isalnum()):
        opened.remove(mark)
        return "close"
    if after.strip() and not (mark in "__" and before.isalnum()):
        opened.append(mark)
        return "open"
    return ""


def _escape(text: str, _: str | None) -> str:
    escaped = _SPECIAL.sub(r"\\\1", text)
    return _LINE_START.sub(lambda match: f"{match[1]}\\{match[2]}" if match[1] else f"\\{match[3]}", escaped)
