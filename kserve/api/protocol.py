"""uvicorn's HTTP protocol with more limits: on connections, on slow heads, on clients that do not read.

A connection that says nothing costs little, but one that sends a byte a minute must not stay for ever. When
the server stops, a request that is on its way already is still read, and told that it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTION = "kserve.connection"  # in the scope of every request: its LimitedProtocol
STOPPING = "kserve.stopping"  # in the scope of a request whose connection ends with its answer (`frame.py`)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: 65\r\n\r\n"
    b'{"error": "too many connections are open", "code": "overloaded"}\n'
)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    max_connections: ClassVar[int] = 20_000
    header_seconds: ClassVar[float] = 10.0
    unread_seconds: ClassVar[float] = 65.0
    last_seconds: ClassVar[float] = (
        0.5  # for a request that was sent before its sender could know of the stop
    )

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._is_stopping = False
        self._call_when_lost: Callable[[], object] | None = None
        self.is_lost = False

    @contextmanager
    def calls_when_lost(self, call: Callable[[], object]) -> Iterator[None]:
        """Call it if the connection ends within the block.

        The same through ASGI would be a task for each request that waits for a message.
        """
        self.flow.resume_reading()  # or the end would not be seen
        self._call_when_lost = call
        try:
            yield
        finally:
            self._call_when_lost = None

    def has_all_of(self, scope: Scope) -> bool:
        """Whether the whole request has come: mostly it has when its handler begins."""
        return self.cycle.scope is scope and not self.cycle.more_body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.write(_FULL)
            transport.close()
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        self._reads_again()
        super().connection_lost(exc)
        self.is_lost = True
        if self._call_when_lost is not None:
            self._call_when_lost()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        # uvicorn's type of a scope knows no keys but its own; ASGI allows more.
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        if self._is_stopping:
            self.scope[STOPPING] = True  # type: ignore[literal-required]
        super().on_headers_complete()

    def shutdown(self) -> None:
        """The server stops: what runs is answered, what comes is refused, and the connection ends with it."""
        self._is_stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(self.last_seconds, self._close_if_idle)
        else:
            self.cycle.scope[STOPPING] = True  # type: ignore[literal-required]
            super().shutdown()

    def _close_if_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reads_again()

    def _reads_again(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.header_seconds, self._head_is_late)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
