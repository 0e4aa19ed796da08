"""The serving process: take the port, load the models, serve until told to stop."""

from __future__ import annotations

import errno
import resource
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from kserve.config import ServerSettings
from kserve.errors import AddressInUse, SettingsError

if TYPE_CHECKING:
    from kserve.translator import Translator

# Seconds after which a thread that works on a large text or answer lets the event loop have the interpreter;
# Python's own are ten times as many, and a request comes back to the loop several times.
_SWITCH_SECONDS = 0.0005


def run(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM; SIGHUP reads keys and models again.

    The port is taken first, so that a second server fails at once; it listens only when the models are
    loaded, so that a broken model is an error of this command and no request ever meets it.
    """
    started = time.perf_counter()
    sys.setswitchinterval(_SWITCH_SECONDS)
    listener = bind(settings.host, settings.port)
    with listener, ThreadPoolExecutor(1) as pool:
        # The models are read while the web framework is imported: both take a good part of the start.
        loading = pool.submit(_load, settings)
        from kserve.api import logs
        from kserve.api.app import create_app
        from kserve.api.http_server import HttpServer

        lines = logs.start(settings)
        _raise_file_limit(settings.max_connections)
        translators = loading.result()
        app = create_app(settings, translators)
        _announce(listener, translators, settings, time.perf_counter() - started)
        try:
            HttpServer(app, settings).run(sockets=[listener])
        finally:
            logs.say("stopped")
            lines.finish(1.0)


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


def _load(settings: ServerSettings) -> list[Translator]:
    from kserve.api.bundles import load_all

    return load_all(settings)


def _announce(
    listener: socket.socket, translators: list[Translator], settings: ServerSettings, seconds: float
) -> None:
    from kserve.api.logs import say

    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    say(
        "serving",
        url=f"http://{shown}:{port}{settings.prefix}",
        models=[one.bundle.name for one in translators],
        isa=translators[0].isa,
        threads=settings.threads,
        seconds=round(seconds, 3),
    )


def _raise_file_limit(connections: int) -> None:
    """Every connection is a file to the system, whose soft limit is often a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 200
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
