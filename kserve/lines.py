"""`kserve translate` on a stream: a line in, a line out, as soon as it is there; and on a file."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from kserve.errors import InvalidParameter
from kserve.results import Decoding, Translation
from kserve.tokenizer import decode_utf8

if TYPE_CHECKING:
    from kserve.translator import Translator

_CHUNK = 1 << 16  # bytes asked for at once: about a thousand lines, or whatever a slow writer has sent


def to_json(translation: Translation) -> dict[str, Any]:
    """A translation as plain data."""
    return {
        "source": translation.source,
        "text": translation.text,
        "score": translation.score,
        "truncated": translation.truncated,
        "hypotheses": [
            {
                "text": one.text,
                "score": one.score,
                "truncated": one.truncated,
                "looped": one.looped,
                "timed_out": one.timed_out,
            }
            for one in translation.hypotheses
        ],
    }


@dataclass
class LineTranslator:
    """Lines from a byte stream to a byte stream; only LF ends a line, so the counts are always equal."""

    translator: Translator
    decoding: Decoding
    as_json: bool = False
    progress: TextIO | None = None  # where to count, for a person who waits

    def write(self, texts: list[str], sink: BinaryIO) -> None:
        """Translate texts, and end each answer with a line break."""
        for answer in self.translator.translate(texts, **self.decoding):
            sink.write(self._line(answer).encode() + b"\n")
        sink.flush()

    def run(self, source: io.BufferedReader, sink: BinaryIO) -> int:
        """Translate all lines; gives how many were not UTF-8 (each such stretch reads as U+FFFD)."""
        broken, done, started = 0, 0, time.perf_counter()
        for lines, ends in _batches(source):
            texts = [decode_utf8(line) for line in lines]
            broken += sum(1 for line in lines if not _is_utf8(line))
            answers = self.translator.translate(texts, **self.decoding)
            for answer, end in zip(answers, ends, strict=True):
                sink.write(self._line(answer).encode() + end)
            sink.flush()
            done += len(lines)
            self._count(done, time.perf_counter() - started)
        if self.progress and done:
            self.progress.write("\n")
        return broken

    def _line(self, answer: Translation) -> str:
        return json.dumps(_encodable(to_json(answer)), ensure_ascii=False) if self.as_json else answer.text

    def _count(self, done: int, seconds: float) -> None:
        if self.progress:
            self.progress.write(f"\r{done} lines, {done / max(seconds, 1e-9):.0f} lines/s")
            self.progress.flush()


def translate_file(translator: Translator, source: Path, target: Path | None, decoding: Decoding) -> Path:
    """Translate a file of a known kind; gives where the translation is: beside it, unless `target` says.

    Raises:
        InputError: the file cannot be read, or is of no known kind.
    """
    from kserve.text.files import read_file

    kind = source.suffix
    target = target or source.with_name(f"{source.stem}.{translator.languages[1]}{kind}")
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InvalidParameter(f"cannot read {source}: {error.strerror}; give a file") from None
    file = read_file(source.name, data)
    found = translator.translate_documents(file.documents, **decoding)
    draft = target.with_name(f".{target.name}.part")
    draft.write_bytes(file.written([one.texts[0] for one in found]))
    draft.replace(target)
    return target


def progress_stream() -> TextIO | None:
    """stderr when a person looks at it while the answers go elsewhere."""
    return sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else None


def _batches(source: io.BufferedReader) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Whole lines as they arrive, and the line end of each: LF, or nothing for a last line without one."""
    rest = b""
    while block := source.read1(_CHUNK):
        rest += block
        *lines, rest = rest.split(b"\n")
        if lines:
            yield lines, [b"\n"] * len(lines)
    if rest:
        yield [rest], [b""]


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encodable(data: dict[str, Any]) -> dict[str, Any]:
    """The source as it can be written: lone surrogates of an argument have no bytes."""
    return {**data, "source": data["source"].encode("utf-8", "replace").decode()}
