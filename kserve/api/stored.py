"""Translated files until they are fetched: in memory, for a time, within a number of bytes."""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kserve.errors import NotFound, Overloaded

_UNSAFE = re.compile(r"[^\w.() +-]+")


@dataclass(frozen=True)
class StoredFile:
    """A file, and until when it is kept."""

    name: str
    content: bytes
    until: float


class FileStore:
    """Files by a name that cannot be guessed."""

    def __init__(self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._seconds, self._clock = max_bytes, seconds, clock
        self._files: OrderedDict[str, StoredFile] = OrderedDict()
        self._bytes = 0

    def put(self, name: str, content: bytes) -> str:
        """Keep a file; gives its name here.

        Raises:
            Overloaded: the files that are kept leave no room.
        """
        self._expire()
        if self._bytes + len(content) > self._max_bytes:
            raise Overloaded("no room for more translated files; fetch yours and try again", 60)
        shown = safe_name(name)
        token = f"{secrets.token_urlsafe(24)}.{shown}"
        self._files[token] = StoredFile(shown, content, self._clock() + self._seconds)
        self._bytes += len(content)
        return token

    def get(self, token: str) -> StoredFile:
        """The file of this name.

        Raises:
            NotFound: there is none, or its time is over.
        """
        self._expire()
        try:
            return self._files[token]
        except KeyError:
            raise NotFound("there is no such file, or its time is over; translate it again") from None

    def remove(self, token: str) -> None:
        """Forget a file."""
        if file := self._files.pop(token, None):
            self._bytes -= len(file.content)

    def _expire(self) -> None:
        while self._files:
            token, file = next(iter(self._files.items()))
            if file.until > self._clock():
                break
            self.remove(token)


def safe_name(name: str) -> str:
    """A file's own name without folders and without what does not belong into a name."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return _UNSAFE.sub("_", last).strip(". ")[-100:] or "file"
