"""What the server logs: a line for each request, as JSON or for a person; never a text, key or address.

Lines are written by a thread of their own from a bounded queue: a pipe that nobody reads loses lines (they
are counted), but stops no request.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import time
from typing import Any

from kserve.config import ServerSettings

LOGGER = logging.getLogger("kserve")
_QUEUED_LINES = 10_000


class _Lines(logging.Handler):
    """Hands formatted lines to the writing thread."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.dropped = 0
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUED_LINES)
        self._stream = stream
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put_nowait(self.format(record))
        except queue.Full:
            self.dropped += 1

    def finish(self, seconds: float) -> None:
        """Write what waits, if somebody reads it in time."""
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _write(self) -> None:
        while (line := self._queue.get()) is not None:
            lines = [line]
            while len(lines) < 100:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._queue.put(None)
                    break
                lines.append(more)
            try:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                self.dropped += len(lines)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.getMessage()} {fields}"
        return line.rstrip() + (f"\n{self.formatException(record.exc_info)}" if record.exc_info else "")


def start(settings: ServerSettings) -> _Lines:
    """Log to stderr from now on; what the web server logs goes there, too."""
    handler = _Lines(sys.stderr)
    is_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    handler.setFormatter(_Text() if is_text else _Json())
    for name in ("kserve", "uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(settings.log_level.upper() if name == "kserve" else "WARNING")
    return handler


def say(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with fields."""
    if LOGGER.isEnabledFor(level):
        # Not LOGGER.log, which looks for the caller's file and line: no log of ours tells them.
        LOGGER.handle(LOGGER.makeRecord(LOGGER.name, level, "", 0, event, (), None, extra={"fields": fields}))
