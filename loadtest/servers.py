"""The two servers as processes on free loopback ports, and locust against one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

from kserve.api.server import bind
from kserve.bench.machine import resident_bytes
from loadtest.rival import SETTING

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60
_STOP_SECONDS = 30
# Every request counts as one address's; nothing is to be refused for its rate alone.
_UNLIMITED = {"KSERVE_RATE": "1000000000", "KSERVE_LOG_LEVEL": "warning"}


@dataclass
class Target:
    """A server under load."""

    name: str
    url: str
    process: subprocess.Popen[bytes]

    def resident_mb(self) -> float:
        """Memory of the process that is in RAM."""
        return resident_bytes(self.process.pid) / 1e6

    def terminate(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_STOP_SECONDS)


@contextmanager
def kserve(bundle: Path, port: int = 0, **settings: str) -> Iterator[Target]:
    """`kserve serve` with a bundle."""
    port = port or free_port()
    command = [sys.executable, "-m", "kserve", "serve", "--bundle", str(bundle), "--port", str(port)]
    with _running("kserve", port, command, {**_UNLIMITED, **settings}) as target:
        yield target


@contextmanager
def ctranslate2(folder: Path) -> Iterator[Target]:
    """The rival; see `rival.prepare`."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "loadtest.rival:create", "--port", str(port)]
    command += ["--http", "httptools", "--loop", "asyncio", "--no-access-log", "--log-level", "warning"]
    with _running("ctranslate2-int8", port, command, {SETTING: str(folder)}) as target:
        yield target


def free_port() -> int:
    """A loopback port that nobody has."""
    with bind("127.0.0.1", 0) as free:
        return int(free.getsockname()[1])


@contextmanager
def _running(name: str, port: int, command: Sequence[str], settings: dict[str, str]) -> Iterator[Target]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("KSERVE_")}
    process = subprocess.Popen(command, cwd=ROOT, env={**clean, **settings}, stdin=subprocess.DEVNULL)
    target = Target(name, f"http://127.0.0.1:{port}", process)
    try:
        wait_ready(target)
        yield target
    finally:
        if process.poll() is None:
            target.terminate()


def wait_ready(target: Target) -> float:
    """Seconds until /ready answers 200."""
    started = time.perf_counter()
    while time.perf_counter() - started < START_SECONDS and target.process.poll() is None:
        with suppress(URLError, ConnectionError), urllib.request.urlopen(target.url + "/ready", timeout=5):
            return time.perf_counter() - started
        time.sleep(0.01)
    raise RuntimeError(f"{target.name} was not ready within {START_SECONDS} s")


@dataclass(frozen=True)
class Load:
    """What locust is told."""

    user: str  # ClosedUser or OpenUser
    kind: str
    users: int = 1
    seconds: float | None = None  # ClosedUser
    warm_seconds: float = 1.0  # of these, not counted
    rates: Sequence[float] = ()  # OpenUser
    step_seconds: float = 5
    array: int = 25


def run_locust(target: Target, load: Load, expected: Path, results: Path) -> list[dict[str, Any]]:
    """The steps' summaries.

    Raises:
        RuntimeError: an answer was wrong or an error; what, is in the message.
    """
    command = [sys.executable, "-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), load.user]
    command += ["--headless", "--only-summary", "-H", target.url, "-L", "ERROR", "--reset-stats"]
    command += ["-u", str(load.users), "-r", str(load.users), "--expected", str(expected)]
    command += ["--kind", load.kind, "--array-size", str(load.array), "--results", str(results)]
    if load.seconds is not None:
        command += [
            "-t",
            f"{load.seconds:g}s",
            "--warm-seconds",
            f"{load.warm_seconds:g}",
            "--stop-timeout",
            "30",
        ]
    if load.rates:
        command += ["--rates", ",".join(f"{rate:g}" for rate in load.rates)]
        command += ["--step-seconds", f"{load.step_seconds:g}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target.name}: {done.stdout[-1500:]}\n{done.stderr[-1500:]}")
    found: list[dict[str, Any]] = json.loads(results.read_text(encoding="utf-8"))
    return found
