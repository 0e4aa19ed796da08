"""A model against its dense twin on a caller's sentence: what the page /compare shows.

The twin is made in memory when it is first asked for, in a thread, and let go when nobody has asked for
a while.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from typing import Any

from kserve.api.bundles import Loaded
from kserve.api.logs import say
from kserve.api.metrics import Metrics
from kserve.api.service import LOOP_GUARD
from kserve.errors import InvalidParameter, Overloaded
from kserve.text.job import Wish, translate
from kserve.text.plain import parse_plain
from kserve.tokenizer import clean
from kserve.translator import Translator
from kserve.twin import dense_twin, linear_bytes

MAX_CHARACTERS = 500
RUNS = 7  # of each, in turn; a race counts as so many texts
PRECISION = "int8"  # the fastest that a dense layer can be here: a rival should be as good as we can make it
_KEEP_SECONDS = 300.0


class Races:
    """One race at a time, with one twin at a time."""

    def __init__(self, metrics: Metrics) -> None:
        self._bytes = metrics.twin_bytes
        self._twin: tuple[str, Translator] | None = None  # and the checksum of the model it is of
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._end: asyncio.TimerHandle | None = None

    async def run(self, loaded: Loaded, text: str) -> dict[str, Any]:
        """Times and translations of both; a race that has begun ends even when nobody waits for it.

        Raises:
            Overloaded: another one is under way.
            InvalidParameter: there is nothing to translate in the text.
        """
        if self._task is not None and not self._task.done():
            raise Overloaded("another comparison is under way; try again in a moment")
        self._task = asyncio.create_task(self._run(loaded, clean(text)))
        return await asyncio.shield(self._task)

    async def _run(self, loaded: Loaded, text: str) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        if self._end is not None:
            self._end.cancel()
        with loaded.used():
            if self._twin is None or self._twin[0] != loaded.identity:
                self._forget()
                twin = await loop.run_in_executor(None, _make, loaded.translator)
                self._twin = (loaded.identity, twin)
                self._bytes.set(linear_bytes(twin.bundle))
            twin = self._twin[1]
            self._end = loop.call_later(_KEEP_SECONDS, self._forget)
            return await loop.run_in_executor(None, race, loaded.translator, twin, text)

    def _forget(self) -> None:
        self._twin = None
        self._bytes.set(0)


def race(own: Translator, twin: Translator, text: str) -> dict[str, Any]:
    """Both engines in turn on one thread; the first run of each only warms it up."""
    ids = _sentences(own, text)
    if not ids:
        raise InvalidParameter("text: there is nothing to translate in it; give a sentence")
    entrants = {"kmatrix": own, "dense": twin}
    seconds: dict[str, list[float]] = {name: [] for name in entrants}
    tokens: dict[str, int] = {}
    for _ in range(RUNS + 1):
        for name, one in entrants.items():
            options = one.options(loop_guard=LOOP_GUARD)
            started = time.perf_counter()
            found = one.engine.translate(ids, options)
            seconds[name].append(time.perf_counter() - started)
            tokens[name] = sum(len(best[0].token_log_probabilities) for best in found)
    return {
        "isa": own.isa,
        "runs": RUNS,
        **{name: _told(one, text, seconds[name][1:], tokens[name]) for name, one in entrants.items()},
    }


def _told(one: Translator, text: str, seconds: list[float], tokens: int) -> dict[str, Any]:
    facts = one.bundle.describe()
    linear = one.bundle.shape.linear.values()
    return {
        "text": one.translate(text, loop_guard=LOOP_GUARD).text,
        "median_ms": round(1e3 * statistics.median(seconds), 3),
        "min_ms": round(1e3 * min(seconds), 3),
        "max_ms": round(1e3 * max(seconds), 3),
        "tokens": tokens,
        "precision": PRECISION if all(kind.kind == "dense" for kind in linear) else "bfloat16",
        "linear_parameters": facts["parameters"]["linear"],
        "weight_bytes": linear_bytes(one.bundle),
    }


def _sentences(translator: Translator, text: str) -> list[list[int]]:
    """Token ids of the sentences, as they are decoded first."""
    steps = translate([parse_plain(text)], translator.codec, Wish())
    try:
        batch = next(steps)
        while not batch:
            batch = steps.send([])
    except StopIteration:
        return []
    return [one.ids for one in batch]


def _make(translator: Translator) -> Translator:
    started = time.perf_counter()
    twin = Translator(dense_twin(translator.bundle, PRECISION), translator.isa, 1)
    twin.warm()
    say(
        "made a dense twin",
        logging.INFO,
        model=twin.bundle.name,
        bytes=linear_bytes(twin.bundle),
        seconds=round(time.perf_counter() - started, 3),
    )
    return twin
