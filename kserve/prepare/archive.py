"""Text files of a corpus, in a folder or in its packed archive; nothing is unpacked to disk."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kserve.errors import InputError


class CorpusError(InputError):
    """The corpus cannot be prepared; the message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Archive:
    """Where the corpus lies and where in it each file is, by its name without folders."""

    path: Path
    members: dict[str, str]

    def lines(self, name: str) -> list[str]:
        """The lines of a file, without line ends.

        Raises:
            CorpusError: the file is missing, cannot be read, or has bytes that are not UTF-8.
        """
        if name not in self.members:
            raise CorpusError(
                f"{self.path} has no file {name}; expected the official archive, unpacked or packed"
            )
        try:
            data = self._read(self.members[name])
        except (OSError, tarfile.TarError, EOFError) as error:
            raise CorpusError(f"cannot read {name} of {self.path}: {error}") from None
        return list(_decode(data.removesuffix(b"\n"), name))

    def _read(self, member: str) -> bytes:
        if self.path.is_dir():
            return (self.path / member).read_bytes()
        with _opened(self.path) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise tarfile.TarError("it is no regular file")
            return file.read()


def open_archive(path: Path) -> Archive:
    """The folder, searched with its folders, or the packed archive (.tgz and the like) at `path`.

    Raises:
        CorpusError: there is neither.
    """
    if path.is_dir():
        found = (file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file())
        return Archive(path, {file.name: str(file) for file in found})
    try:
        with _opened(path) as tar:
            names = [member.name for member in tar.getmembers() if member.isfile()]
    except FileNotFoundError:
        raise CorpusError(f"nothing at {path}; give the folder or the archive of the corpus") from None
    except (OSError, tarfile.TarError, EOFError) as error:
        raise CorpusError(f"{path} is neither a folder nor a readable archive ({error})") from None
    return Archive(path, {PurePosixPath(name).name: name for name in names})


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with tarfile.open(path) as tar:
        yield tar


def _decode(data: bytes, name: str) -> Iterator[str]:
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            yield line.decode("utf-8").rstrip("\r")
        except UnicodeDecodeError as error:
            raise CorpusError(f"{name}, line {number}: not valid UTF-8 ({error.reason})") from None
