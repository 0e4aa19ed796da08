"""The archives that DOCX and ODT files are, read within limits and written with some entries changed.

Nothing is unpacked to disk, and the XML is never given to a parser that expands entities. A file that holds
macros is refused: its translation would carry them on.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from kserve.errors import UnsafeFile

_MACROS = re.compile(r"vba(?:project|data)|(?:^|/)(?:basic|scripts)/", re.IGNORECASE)
_DAMAGE = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,  # encrypted
    NotImplementedError,  # a way of compression that is not known
    ValueError,  # places before the file's beginning, names that are not UTF-8
    struct.error,
)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may hold when it is unpacked; some are made to fill the memory."""

    bytes: int = 50_000_000
    entries: int = 5_000


@dataclass(frozen=True)
class Archive:
    """An archive's entries by name, in order."""

    entries: Mapping[str, bytes]
    infos: tuple[zipfile.ZipInfo, ...]

    def text(self, name: str) -> str:
        """An XML entry.

        Raises:
            UnsafeFile: it is not there, is not UTF-8, or declares a document type.
        """
        try:
            text = self.entries[name].decode("utf-8-sig")
        except KeyError:
            raise UnsafeFile(
                f"the file has no {name}; it is no document of the kind that its name says"
            ) from None
        except UnicodeDecodeError:
            raise UnsafeFile(f"{name} in the file is not UTF-8; save it again") from None
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise UnsafeFile(
                f"{name} in the file declares a document type, which office programs never write"
            )
        return text

    def written(self, changed: Mapping[str, str]) -> bytes:
        """The archive with some entries changed, each compressed as it was."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            for info in self.infos:
                new = changed.get(info.filename)
                content = self.entries[info.filename] if new is None else new.encode()
                archive.writestr(info, content, compress_type=info.compress_type)
        return out.getvalue()


def read_archive(data: bytes, limits: ArchiveLimits) -> Archive:
    """The archive, counted while it is unpacked.

    Raises:
        UnsafeFile: it is no archive, too large when unpacked, encrypted, or holds macros.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _read(archive, limits)
    except UnsafeFile:
        raise
    except _DAMAGE:
        raise UnsafeFile("the file is damaged, encrypted, or no office document; save it again") from None


def _read(archive: zipfile.ZipFile, limits: ArchiveLimits) -> Archive:
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise UnsafeFile(f"the file holds {len(infos)} entries; at most {limits.entries} are read")
    entries: dict[str, bytes] = {}
    left = limits.bytes
    for info in infos:
        if _MACROS.search(info.filename):
            raise UnsafeFile("the file holds macros; save it without them")
        # Python's other decompressors unpack all that they are given, however little is asked for.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsafeFile("the file is compressed in a way that office programs never use; save it again")
        with archive.open(info) as entry:
            entries[info.filename] = entry.read(left + 1)
        left -= len(entries[info.filename])
        if left < 0:
            raise UnsafeFile(f"the file has more than {limits.bytes} bytes when it is unpacked")
    return Archive(entries, tuple(infos))
