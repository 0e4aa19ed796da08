"""Engine work off the event loop: a few threads behind a queue with an end. No HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from kserve.errors import Overloaded

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A result, and what it took in milliseconds."""

    result: Result
    queue_ms: float
    work_ms: float


class Worker:
    """Runs blocking work in threads. When `threads` jobs run and `queue_size` wait, the next one is refused
    at once.

    Used from one event loop only, so the count needs no lock.
    """

    def __init__(self, threads: int, queue_size: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._limit = threads + queue_size
        self._jobs = 0

    @property
    def jobs(self) -> int:
        """Jobs that run or wait."""
        return self._jobs

    async def run(self, work: Callable[[], Result]) -> Done[Result]:
        """Wait for the work; a job whose caller has gone is dropped if it has not begun.

        Raises:
            Overloaded: the queue is full.
        """
        if self._jobs >= self._limit:
            raise Overloaded(
                f"{self._jobs} requests are running or waiting, the limit is {self._limit}; try again later"
            )
        self._jobs += 1
        asked = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, _timed, work, asked)
        finally:
            self._jobs -= 1

    def close(self) -> None:
        """End the threads once running work is done; waiting work is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def _timed(work: Callable[[], Result], asked: float) -> Done[Result]:
    begun = time.perf_counter()
    result = work()
    return Done(result, 1000 * (begun - asked), 1000 * (time.perf_counter() - begun))
