"""How many requests are let in at once: as many as are still answered quickly.

How many that are depends on the machine, the model and the texts, so it is found as TCP finds its window: the
limit grows while short requests are quick and the places taken, and shrinks when they take longer than they
should. What is beyond it is refused at once, which costs nearly nothing and lets the caller go elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from kserve.errors import Overloaded

_FIRST, _LEAST = 64, 8  # requests: before anything was measured; what is let in however slow it is
_GROWTH = 0.1  # requests more for each that was quick
_LOWEST_CUT = 0.5
SHORT = 2  # sentences; only requests of so many tell whether the server keeps up


class Admission:
    """One for each app.

    Args:
        most: requests, however quick they are.
        target: seconds that a short request may take.
    """

    def __init__(self, most: int, target: float) -> None:
        self._most, self._target = most, target
        self.limit = float(min(most, _FIRST))
        self.running = 0
        self._cut = -float("inf")  # when the limit was last lowered

    def require(self) -> None:
        """Raises Overloaded when all places are taken."""
        if self.running >= int(self.limit):
            raise Overloaded(
                f"{self.running} requests are under way, all that can be answered in time; try again later"
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for a request.

        Raises:
            Overloaded: all are taken.
        """
        self.require()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def observe(self, sentences: int, seconds: float) -> None:
        """A request of so many sentences took so long, and still has its place."""
        if sentences > SHORT or self.running <= self.limit / 2:
            return  # a lone request that is slow is slow by itself
        if seconds <= self._target:
            if self.running > 0.75 * self.limit:
                self.limit = min(self.limit + _GROWTH, float(self._most))
            return
        now = time.monotonic()
        # Requests that were let in together are late together: they count once.
        if now - self._cut > seconds:
            self._cut = now
            least = float(min(_LEAST, self._most))
            self.limit = max(least, self.limit * max(_LOWEST_CUT, self._target / seconds))
