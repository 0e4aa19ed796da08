"""What goes around every request: its id, the reply's safe headers, one log line, one count."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kserve.api.logs import LOGGER, say
from kserve.api.metrics import Metrics
from kserve.api.protocol import STOPPING

_ID = re.compile(r"[\w.-]{1,64}")
_QUIET = frozenset(
    {"/health", "/ready", "/metrics"}
)  # asked for every few seconds; logged only when they fail
# Ids of this process's requests: unique, not secret.
_START = secrets.token_hex(4).encode()
_NUMBERS = itertools.count(1)
_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
# Answers are data; the pages that a browser shows bring a policy of their own.
_NOTHING = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


class Frame:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, metrics: Metrics, prefix: str) -> None:
        self._app, self._metrics, self._prefix = app, metrics, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        identity = _identity(scope)
        status = 499  # nothing was sent: the client has gone

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _with_safe_headers(message["headers"], identity)
                if scope.get(STOPPING):
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        _strip_prefix(scope, self._prefix)
        try:
            await self._app(scope, receive, sent)
        finally:
            self._finish(scope, identity, status, time.perf_counter() - started)

    def _finish(self, scope: Scope, identity: bytes, status: int, seconds: float) -> None:
        route = scope.get("route")
        # The route, not the path: paths may be endless, and hold what is nobody's business.
        path = str(getattr(route, "path", "other"))
        self._metrics.requests.labels(path, str(status)).inc()
        if (path in _QUIET and status < 400) or not LOGGER.isEnabledFor(logging.INFO):
            return
        caller = scope.get("kserve.caller")
        fields: dict[str, Any] = {
            "id": identity.decode(),
            "method": scope["method"],
            "path": path,
            "status": status,
            "ms": round(1e3 * seconds, 2),
        }
        if caller is not None and caller.has_key:
            fields["key"] = caller.name
        say("request", **fields)


def _identity(scope: Scope) -> bytes:
    """The caller's own id of the request, if it is one, or a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value.decode("latin-1")):
            return bytes(value)
    return b"%s-%x" % (_START, next(_NUMBERS))


def _with_safe_headers(headers: list[tuple[bytes, bytes]], identity: bytes) -> list[tuple[bytes, bytes]]:
    own = {name.lower() for name, _ in headers}
    policy = [] if _NOTHING[0] in own else [_NOTHING]
    return [*headers, *_SAFE, *policy, (b"x-request-id", identity)]


def _strip_prefix(scope: Scope, prefix: str) -> None:
    """Paths are the same whether the proxy cuts its prefix off or not; links in answers have it."""
    if prefix:
        scope["root_path"] = prefix
        if scope["path"] == prefix:
            scope["path"] += "/"
        if not scope["path"].startswith(f"{prefix}/"):
            scope["path"] = prefix + scope["path"]
