"""A real server process on a free loopback port, for tests that speak real HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT = 120  # seconds, for a busy machine


@dataclass
class Server:
    """A running `kserve serve`."""

    process: subprocess.Popen[str]
    url: str

    def client(self) -> httpx.Client:
        """A client whose paths start at the server; it ignores proxies of the environment."""
        return httpx.Client(base_url=self.url, timeout=_TIMEOUT, trust_env=False)

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found
        return 1024 * int(found[1])


def command(*arguments: str) -> list[str]:
    """The kserve command of this checkout."""
    return [sys.executable, "-m", "kserve", *arguments]


@contextmanager
def serving(bundle: Path | None, **settings: str) -> Iterator[Server]:
    """Start a server and wait until it is ready; settings are KSERVE_ variables without the prefix."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSERVE_")}
    environment.update({f"KSERVE_{name.upper()}": value for name, value in settings.items()})
    arguments = ["serve", "--port", "0", *(["--bundle", str(bundle)] if bundle else [])]
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield _ready(process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_TIMEOUT)
        assert process.stderr
        process.stderr.close()


def _ready(process: subprocess.Popen[str]) -> Server:
    assert process.stderr
    line = process.stderr.readline()
    found = re.search(r"http://[\w.:\[\]]+", line)
    assert found, f"no address in {line!r}"
    server = Server(process, found[0])
    deadline = time.monotonic() + _TIMEOUT
    with server.client() as client:
        while time.monotonic() < deadline:
            try:
                if client.get("/ready").status_code == 200:
                    return server
            except httpx.TransportError:
                pass  # the line comes just before it listens
            time.sleep(0.02)
    raise AssertionError(f"{server.url} was not ready within {_TIMEOUT} s")
