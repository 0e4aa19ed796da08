"""uvicorn's server, which stops without losing a connection, and reads keys and models again on SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import uvicorn

from kserve.api.logs import say
from kserve.api.protocol import LimitedProtocol
from kserve.config import ServerSettings
from kserve.errors import KserveError

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI

_BACKLOG = 4096


class HttpServer(uvicorn.Server):
    """Serves an app of `create_app`; the process ends with code 0 when it is told to stop."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        LimitedProtocol.max_connections = settings.max_connections
        LimitedProtocol.header_seconds = settings.header_seconds
        LimitedProtocol.unread_seconds = settings.idle_seconds
        super().__init__(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=LimitedProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                backlog=_BACKLOG,
                server_header=False,
                **_limits(settings),
            )
        )
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (uvicorn's signature)
        """Stop; a second SIGINT stops at once. The process ends with code 0, not by the signal."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._start_reload)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Refuse what is new; what waits to be accepted is accepted, or it would be reset."""
        self._app.state.kserve.service.ready = False
        waiting = [one for listener in sockets or () for one in _accept_all(listener)]
        for server in self.servers:
            server.close()
        for connection in waiting:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        await super().shutdown(sockets)

    def _protocol(self) -> LimitedProtocol:
        return LimitedProtocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _start_reload(self) -> None:
        self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        state = self._app.state.kserve
        try:
            state.access.read()
            say("reloaded", models=await state.service.bundles.reload())
        except KserveError as error:
            say("reload failed; what was loaded goes on", logging.ERROR, error=str(error))


def _accept_all(listener: socket.socket) -> Iterator[socket.socket]:
    """Connections that the system holds for a listener that does not block."""
    with suppress(BlockingIOError):
        while True:
            yield listener.accept()[0]


def _limits(settings: ServerSettings) -> dict[str, Any]:
    """What of the settings uvicorn itself looks after."""
    return {
        "proxy_headers": bool(settings.trusted_proxies),
        "forwarded_allow_ips": [str(network) for network in settings.trusted_proxies],
        "timeout_keep_alive": max(1, round(settings.idle_seconds)),
        "timeout_graceful_shutdown": max(1, round(settings.stop_seconds)),
    }
