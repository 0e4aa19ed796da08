"""A real server process on a free loopback port, for tests that speak real HTTP."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT = 120  # seconds, for a busy machine


@dataclass
class Server:
    """A running `kserve serve`."""

    process: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)  # what it has logged

    def follow(self) -> None:
        """Read what it logs from now on, so that its pipe never fills up."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Logged events of this name."""
        parsed = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [line for line in parsed if line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """The same, once there are so many of them."""
        deadline = time.monotonic() + _TIMEOUT
        while len(found := self.logged(event)) < count and time.monotonic() < deadline:
            if self.process.poll() is not None:
                deadline = min(deadline, time.monotonic() + 1)  # the last lines may be on their way
            time.sleep(0.01)
        assert len(found) >= count, f"{event!r} was not logged; the last lines: {self.lines[-5:]}"
        return found

    def client(self) -> httpx.Client:
        """A client whose paths start at the server; it ignores proxies of the environment."""
        # Nothing here speaks TLS, and reading the certificates takes longer than most requests.
        return httpx.Client(base_url=self.url, timeout=_TIMEOUT, trust_env=False, verify=False)

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
def serving(*bundles: Path, **settings: str) -> Iterator[Server]:
    """Start a server and wait until it is ready; settings are KSERVE_ variables without the prefix."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KSERVE_")}
    environment.update({f"KSERVE_{name.upper()}": value for name, value in settings.items()})
    arguments = ["serve", "--port", "0", *(word for path in bundles for word in ("--bundle", str(path)))]
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    server = Server(process)
    reader = threading.Thread(target=server.follow, daemon=True)
    reader.start()
    try:
        _wait(server)
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_TIMEOUT)
        reader.join(_TIMEOUT)
        assert process.stderr
        process.stderr.close()


def _wait(server: Server) -> None:
    """Until it is ready."""
    server.url = server.wait_for("serving")[0]["url"]
    deadline = time.monotonic() + _TIMEOUT
    with server.client() as client:
        while time.monotonic() < deadline:
            try:
                if client.get("/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass  # the line comes just before it listens
            time.sleep(0.02)
    raise AssertionError(f"{server.url} was not ready within {_TIMEOUT} s")
