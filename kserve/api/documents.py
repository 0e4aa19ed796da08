"""A file from bytes to bytes through the service."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import PurePosixPath

from kserve.api.access import Caller
from kserve.api.body import Upload
from kserve.api.driver import Timings
from kserve.api.service import AUTO, Ask, Service
from kserve.api.stored import safe_name
from kserve.errors import TextTooLong
from kserve.text.blocks import Block, Document
from kserve.text.files import ArchiveLimits, TranslatableFile, characters_in, read_file

_SAMPLE = 2_000  # characters by which a file's language is told


@dataclass(frozen=True)
class DoneFile:
    """A translated file."""

    name: str
    content: bytes
    characters: int
    source: str
    timings: Timings


async def translate_file(service: Service, upload: Upload, pair: tuple[str, str], caller: Caller) -> DoneFile:
    """A file of any known kind; `pair` is source (or AUTO) and target.

    Raises:
        UnsupportedFile, UnsafeFile: it cannot be read.
        TextTooLong: it holds more text than the limit.
    """
    settings = service.settings
    loop = asyncio.get_running_loop()
    limits = ArchiveLimits(settings.max_unpacked_bytes)
    file: TranslatableFile = await loop.run_in_executor(
        None, lambda: read_file(upload.name, upload.content, limits=limits)
    )
    characters = characters_in(file.documents)
    if characters > settings.max_file_characters:
        raise TextTooLong(
            f"Invalid request: the file's text ({characters}) exceeds the limit of "
            f"{settings.max_file_characters} characters; send it in parts"
        )
    service.count(caller, 1, characters)
    source, target = pair
    if source == AUTO:
        source = await service.source_of(_sample(file.documents), target)
    timings = Timings()
    loaded = service.bundles.choose(source, target)
    if loaded is None:
        return DoneFile(safe_name(upload.name), upload.content, characters, source, timings)
    ask = Ask((), source, target, deadline=settings.file_deadline)
    with service.admission.place():
        found = await service.documents(loaded, file.documents, ask, timings)
    content = await loop.run_in_executor(None, file.written, [one.texts[0] for one in found])
    return DoneFile(_renamed(upload.name, target), content, characters, source, timings)


def _sample(documents: list[Document]) -> str:
    texts = [piece.text for document in documents for piece in document if isinstance(piece, Block)]
    return " ".join(texts)[:_SAMPLE]


def _renamed(name: str, target: str) -> str:
    """letter.docx becomes letter.en.docx."""
    path = PurePosixPath(safe_name(name))
    return f"{path.stem}.{target}{path.suffix.lower()}"
