"""A client on one connection, and a tally of what it got. Locust is for crowds; this is for single users."""

from __future__ import annotations

import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import Self

from kserve.bench.machine import percentile
from loadtest.traffic import Sent

_TIMEOUT = 60.0  # seconds; longer is a hang


class Tally:
    """What became of requests; several threads may count at once."""

    def __init__(self) -> None:
        self.seconds: list[float] = []  # of accepted ones
        self.refused = 0
        self.absent = 0  # no server: nothing was sent
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()

    def count(self, sent: Sent, answer: HTTPResponse, body: bytes, seconds: float) -> bool:
        """Whether it was answered; a refusal is to be asked again."""
        fault = sent.judge(answer.status, body, answer.headers.get("Retry-After"))
        with self._lock:
            if fault:
                self.faults[fault] += 1
            elif answer.status == 200:
                self.seconds.append(seconds)
            else:
                self.refused += 1
        return answer.status == 200

    def lose(self, why: str) -> None:
        """A request that was sent and never answered."""
        with self._lock:
            self.faults[f"lost: {why}"] += 1

    def miss(self) -> None:
        """Nobody listened."""
        with self._lock:
            self.absent += 1

    def require_right(self) -> None:
        """Raises: RuntimeError: some answer was wrong."""
        if self.faults:
            raise RuntimeError(f"wrong answers: {dict(self.faults.most_common(5))}")

    def counts(self) -> dict[str, Any]:
        """How many of each."""
        return {
            "answered": len(self.seconds),
            "refused": self.refused,
            "found_no_server": self.absent,
            "faults": dict(self.faults),
        }

    def milliseconds(self) -> dict[str, float]:
        """Percentiles of what was accepted."""
        return {
            f"p{100 * share:.0f}_ms": round(1e3 * percentile(self.seconds, share), 2)
            for share in (0.5, 0.95, 0.99)
        }


class Client:
    """One connection that stays open."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = HTTPConnection(address.hostname or "", address.port, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def send(self, sent: Sent) -> None:
        """The request, without its answer."""
        self._connection.request("POST", sent.path, sent.body, sent.headers)

    def ask(self, sent: Sent, tally: Tally) -> bool:
        """The request and its answer; whether it was accepted."""
        started = time.perf_counter()
        self.send(sent)
        answer = self._connection.getresponse()
        body = answer.read()
        return tally.count(sent, answer, body, time.perf_counter() - started)

    @classmethod
    def once(cls, url: str, sent: Sent, tally: Tally) -> bool:
        """A request on a connection of its own: refused, lost and nobody there are told apart."""
        with cls(url) as client:
            try:
                client._connection.connect()
            except OSError:
                tally.miss()
                return False
            try:
                return client.ask(sent, tally)
            except (OSError, HTTPException) as error:
                tally.lose(type(error).__name__)
                return True
