"""Files that are translated as they are: plain text, SRT, HTML, Markdown, DOCX and ODT.

file = read_file("letter.docx", data)
file.documents                          # what job.translate takes
file.written(texts)                     # the file's bytes with the texts that it gave
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from kserve.errors import UnsupportedFile
from kserve.text.blocks import Block, Document
from kserve.text.files.archive import ArchiveLimits, read_archive

__all__ = ["MEDIA_TYPES", "ArchiveLimits", "TranslatableFile", "characters_in", "file_kind", "read_file"]

MEDIA_TYPES = {
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "htm": "text/html",
    "html": "text/html",
    "md": "text/markdown",
    "odt": "application/vnd.oasis.opendocument.text",
    "srt": "application/x-subrip",
    "txt": "text/plain",
}
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True)
class TranslatableFile:
    """A file that was read: what to translate, and how to write it."""

    documents: list[Document]
    written: Callable[[Sequence[str]], bytes]


def file_kind(name: str) -> str:
    """What the name's ending says.

    Raises:
        UnsupportedFile: it is none of the known ones.
    """
    ending = PurePosixPath(name.replace("\\", "/")).suffix.lower().lstrip(".")
    if ending not in MEDIA_TYPES:
        known = ", ".join(f".{one}" for one in MEDIA_TYPES)
        raise UnsupportedFile(
            f"Invalid request: file format not supported; a file's name must end in {known}"
        )
    return ending


def read_file(
    name: str, data: bytes, protect: bool = True, limits: ArchiveLimits | None = None
) -> TranslatableFile:
    """A file by the ending of its name.

    Raises:
        UnsupportedFile: the ending is not known.
        UnsafeFile: an office document that is damaged, too large when unpacked, or holds macros.
    """
    kind = file_kind(name)
    if kind in ("docx", "odt"):
        return _read_office(kind, data, protect, limits or ArchiveLimits())
    text, encoded = _decoded(data)
    return TranslatableFile([_parser(kind)(text, protect)], lambda texts: encoded(texts[0]))


def characters_in(documents: Sequence[Document]) -> int:
    """Characters that are to be translated."""
    return sum(
        len(piece.text) if isinstance(piece, Block) else 0 for document in documents for piece in document
    )


def _parser(kind: str) -> Callable[[str, bool], Document]:
    if kind == "srt":
        from kserve.text.files.subtitles import parse_srt

        return parse_srt
    if kind == "md":
        from kserve.text.files.markdown import parse_markdown

        return parse_markdown
    if kind == "txt":
        from kserve.text.plain import parse_plain

        return parse_plain
    from kserve.text.html import parse_html

    return parse_html


def _read_office(kind: str, data: bytes, protect: bool, limits: ArchiveLimits) -> TranslatableFile:
    from kserve.text.files.odt import odt_parts
    from kserve.text.files.word import word_parts

    archive = read_archive(data, limits)
    parts = (word_parts if kind == "docx" else odt_parts)(archive, protect)
    return TranslatableFile(
        list(parts.values()), lambda texts: archive.written(dict(zip(parts, texts, strict=True)))
    )


def _encoded(mark: bytes, encoding: str, text: str) -> bytes:
    return mark + text.encode(encoding, "replace")


def _decoded(data: bytes) -> tuple[str, Callable[[str], bytes]]:
    """Text in UTF-8, UTF-16 with a mark, or Windows' Western code page; and the way back."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            return text, partial(_encoded, mark, encoding)
    try:
        return data.decode(), lambda new: new.encode("utf-8", "replace")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), lambda new: new.encode("cp1252", "xmlcharrefreplace")
