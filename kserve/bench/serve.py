"""`kserve bench serve`: start-up, memory and latency of a real server process on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.error import URLError

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
        for number in range(requests):
            text = sentences[number % len(sentences)]
            started = time.perf_counter()
            translator.engine.translate([ids[text]], options)
            alone = time.perf_counter() - started
            latencies.append(server.translate(text, translator.languages, expected))
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
        self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._connection = HTTPConnection("127.0.0.1", free.getsockname()[1])
        free.close()
        command = [sys.executable, "-m", "kserve", "serve", "--port", self.url.rpartition(":")[2]]
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

    def translate(self, text: str, pair: tuple[str, str], expected: dict[str, str]) -> float:
        """Seconds of one request on a connection that stays open; its answer must be the library's."""
        body = json.dumps({"q": text, "source": pair[0], "target": pair[1]})
        started = time.perf_counter()
        self._connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse().read()
        seconds = time.perf_counter() - started
        got = json.loads(answer).get("translatedText")
        if got != expected[text]:
            raise RuntimeError(f"the server answered {answer[:200]!r}, the library {expected[text]!r}")
        return seconds

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self.process.terminate()
        self.process.wait(30)

    def ready_and_stop(self) -> float:
        """Only the start-up time."""
        try:
            return self.wait_ready()
        finally:
            self.stop()
