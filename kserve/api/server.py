"""The serving process: take the port, load the model, serve until told to stop."""

from __future__ import annotations

import errno
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kserve.config import Settings
from kserve.errors import AddressInUse, SettingsError

if TYPE_CHECKING:
    from kserve.translator import Translator

_BACKLOG = 2048
_GRACE_SECONDS = 10  # for requests under way when the process is told to stop


def run(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    The port is taken first, so that a second server fails at once; it listens only when the model is loaded,
    so that a broken model is an error of this command and no request ever meets it.
    """
    listener = bind(settings.host, settings.port)
    with listener, ThreadPoolExecutor(1) as pool:
        # The model is read while the web framework is imported: both take a good part of the start.
        loading = pool.submit(_load, settings)
        import uvicorn

        from kserve.api.app import create_app

        translator = loading.result()
        host, port = listener.getsockname()[:2]
        config = uvicorn.Config(
            create_app(settings, translator),
            log_level="warning",
            access_log=False,
            ws="none",
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        shown = f"[{host}]" if ":" in host else host
        sys.stderr.write(
            f"kserve: {translator.bundle.name} on http://{shown}:{port} "
            f"({translator.isa}, {translator.threads} threads)\n"
        )
        sys.stderr.flush()
        uvicorn.Server(config).run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, not listening yet.

    Raises:
        AddressInUse: another process has the port.
        SettingsError: there is no such address here, or it needs more rights.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}: {error.strerror}; give another --host") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"port {port} on {host} is in use; stop the process that has it, or give another --port"
            ) from None
        raise SettingsError(
            f"cannot listen on {host} port {port}: {error.strerror}; give another --host or --port"
        ) from None
    return listener


def _load(settings: Settings) -> Translator:
    from kserve.translator import Translator

    return Translator(settings.model, settings.isa, settings.threads)
