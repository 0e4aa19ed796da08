"""The least time that a K-matrix multiply can take on this machine, as it is while the kernel is timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kserve._engine import kernels, timing

LEVELS = ("L1", "L2", "L3")
_BLOCK = 512  # floats: the reading probe takes whole blocks
_PLACES = (1, 2, 4)  # that reading goes on at, at a time; which is fastest depends on the machine
_WORDS_A_ROUND = 8  # about, of the arithmetic probe
_DEFAULTS = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # where the system does not tell
_EXCHANGES = 7  # of lanes for each chunk of 16 numbers, in every pair of butterflies: strides 8 4 2 1 2 4 8

Timer = Callable[[int], float]  # seconds of so many calls


@dataclass(frozen=True)
class Floor:
    """The least seconds of one product: to read its weights, and to do its arithmetic."""

    reading: float
    arithmetic: float

    @property
    def seconds(self) -> float:
        """Whichever is slower."""
        return max(self.reading, self.arithmetic)


def floor_timers(table: kernels.Kernels, words: NDArray[np.uint32]) -> dict[str, Timer]:
    """Timers to take turns with the kernel's, so that all see one clock. words: copies of the weights."""
    size = words.nbytes // 4 // _BLOCK * _BLOCK
    numbers = np.ones(max(size, _BLOCK), np.float32)
    one_copy = words.nbytes / len(words) / numbers.nbytes

    def read(places: int) -> Timer:
        def run(calls: int) -> float:
            passes = max(1, round(calls * one_copy))
            return timing.read(table, numbers, places, passes) / passes * one_copy * calls

        return run

    def arithmetic(work: str) -> Timer:
        # A round takes several words.
        return lambda calls: calls * timing.seconds_a_word(table, work, max(1, calls // _WORDS_A_ROUND))

    return {
        **{f"read_{places}": read(places) for places in _PLACES},
        **{f"word_{work}": arithmetic(work) for work in ("nothing", "widening", "exchanging")},
    }


def floor_of(taken: Mapping[str, float], layer: kernels.KMatrixLayer, rows: int) -> Floor:
    """From the seconds of one call of each of the timers.

    Arithmetic: every number of the weights is multiplied and added once a row; half of the numbers are
    widened, once for all rows; a part of the multiply-adds needs lanes exchanged.
    """
    vectors = layer.words_per_square / 16
    exchanging = _EXCHANGES * (layer.inner / 16) * layer.width / (2 * vectors)
    plain = taken["word_nothing"]
    widening, exchange = (max(0.0, taken[f"word_{work}"] - plain) for work in ("widening", "exchanging"))
    return Floor(
        min(taken[f"read_{places}"] for places in _PLACES),
        vectors * (rows * (plain + exchanging * exchange) + widening),
    )


def cache_bytes() -> dict[str, int]:
    """Sizes of the data caches that one core sees, as Linux tells them."""
    sizes = dict(_DEFAULTS)
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and f"L{level}" in sizes and size.endswith("K"):
            sizes[f"L{level}"] = int(size[:-1]) << 10
    return sizes


def working_set(level: str) -> int:
    """Bytes that are found in this level and in none above it, when they are read again and again.

    Half of the first level, half of the second, and for the third four times the second: well beyond that,
    well within what one core can have of a cache that it shares.
    """
    sizes = cache_bytes()
    if level == "L3":
        return min(4 * sizes["L2"], sizes["L3"] // 2)
    return sizes[level] // 2
