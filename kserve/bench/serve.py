"""`kserve bench serve`: start-up, memory and latency of a real server process on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.error import URLError

import httptools

from kserve.api.server import bind
from kserve.api.service import LOOP_GUARD
from kserve.bench.machine import percentile, resident_bytes, spread
from kserve.translator import Translator


def run_serve(bundle: Path | None, sentences: Sequence[str], requests: int, starts: int) -> dict[str, Any]:
    """Start the server `starts` times, then send `requests` single sentences, each answer checked.

    Before each request the engine alone translates the same sentence in this process, so that what the server
    adds to it is a difference of neighbours.

    Returns:
        Seconds from process start to /ready, milliseconds of a request and of what is not the engine's,
        resident bytes at the end.
    """
    translator = Translator(bundle, None, 1)
    options = translator.options(loop_guard=LOOP_GUARD)
    expected = {text: translator.translate(text, loop_guard=LOOP_GUARD).text for text in sentences}
    ids = {text: translator.tokenizer.encode(text) for text in sentences}
    seconds = [_Server(bundle).ready_and_stop() for _ in range(starts - 1)]
    server = _Server(bundle)
    latencies, overheads = [], []
    try:
        seconds.append(server.wait_ready())
        with closing(_Client(server.port)) as client:
            for number in range(requests):
                text = sentences[number % len(sentences)]
                started = time.perf_counter()
                translator.engine.translate([ids[text]], options)
                alone = time.perf_counter() - started
                latencies.append(client.translate(text, translator.languages, expected))
                overheads.append(latencies[-1] - alone)
        resident = resident_bytes(server.process.pid)
    finally:
        server.stop()
    return _record(seconds, latencies, overheads, resident)


def _record(
    seconds: list[float], latencies: list[float], overheads: list[float], resident: int
) -> dict[str, Any]:
    ready = spread(seconds)
    return {
        "engine": "kserve-http",
        "ready_seconds": ready["median"],
        "ready_seconds_min": ready["min"],
        "ready_seconds_max": ready["max"],
        "requests": len(latencies),
        "p50_ms": percentile(latencies, 0.5) * 1e3,
        "p99_ms": percentile(latencies, 0.99) * 1e3,
        "overhead_p50_ms": percentile(overheads, 0.5) * 1e3,
        "overhead_p25_ms": percentile(overheads, 0.25) * 1e3,
        "overhead_p75_ms": percentile(overheads, 0.75) * 1e3,
        "resident_mb": resident / 1e6,
    }


class _Server:
    """A `kserve serve` process on a free loopback port."""

    def __init__(self, bundle: Path | None) -> None:
        free = bind("127.0.0.1", 0)
        self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        free.close()
        command = [sys.executable, "-m", "kserve", "serve", "--port", str(self.port)]
        if bundle is not None:
            command += ["--bundle", str(bundle)]
        self.started = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait_ready(self, limit: float = 60) -> float:
        """Seconds from process start to the first 200 of /ready."""
        while time.perf_counter() - self.started < limit and self.process.poll() is None:
            with suppress(URLError, ConnectionError), urllib.request.urlopen(self.url + "/ready") as answer:
                if answer.status == 200:
                    return time.perf_counter() - self.started
            time.sleep(0.005)
        raise RuntimeError(f"the server was not ready within {limit} s")

    def stop(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(30)

    def ready_and_stop(self) -> float:
        """Only the start-up time."""
        try:
            return self.wait_ready()
        finally:
            self.stop()


class _Client:
    """A client that costs little: the standard library's takes 0.4 ms of its own for a request."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def translate(self, text: str, pair: tuple[str, str], expected: dict[str, str]) -> float:
        """Seconds of one request on a connection that stays open; its answer must be the library's."""
        body = json.dumps({"q": text, "source": pair[0], "target": pair[1]})
        started = time.perf_counter()
        answer = self._post("/translate", body.encode())
        seconds = time.perf_counter() - started
        got = json.loads(answer).get("translatedText")
        if got != expected[text]:
            raise RuntimeError(f"the server answered {answer[:200]!r}, the library {expected[text]!r}")
        return seconds

    def _post(self, path: str, body: bytes) -> bytes:
        """The body of the answer, whatever its status."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.is_whole:
            received = self._socket.recv(1 << 16)
            if not received:
                raise RuntimeError("the server closed the connection before its answer was whole")
            parser.feed_data(received)
        return answer.body

    def close(self) -> None:
        """The end."""
        self._socket.close()


class _Answer:
    """What the parser has found of an answer."""

    def __init__(self) -> None:
        self.body, self.is_whole = b"", False

    def on_body(self, body: bytes) -> None:
        """Called by the parser."""
        self.body += body

    def on_message_complete(self) -> None:
        """Called by the parser."""
        self.is_whole = True
