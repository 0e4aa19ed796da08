"""What this machine can do at best: bytes a second from each cache level, multiply-adds a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kserve._engine import kernels, timing

LEVELS = ("L1", "L2", "L3")
_BLOCK = 512  # floats: the reading probe takes whole blocks
_READ_BYTES = 1 << 26  # of one timing, so that the clock's own cost vanishes
_ROUNDS = 200_000
_DEFAULTS = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # where the system does not tell


@dataclass(frozen=True)
class Floor:
    """Bytes a second by cache level, and multiply-adds of single numbers a second; one thread."""

    bytes_per_second: dict[str, float]
    multiply_adds_per_second: float

    def microseconds(self, level: str, bytes_read: int, multiply_adds: int) -> float:
        """The least time for so many bytes of weights and so many multiply-adds, whichever is slower."""
        reading = bytes_read / self.bytes_per_second[level]
        return max(reading, multiply_adds / self.multiply_adds_per_second) * 1e6


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


def measure_floor(table: kernels.Kernels, repeats: int = 9) -> Floor:
    """The best of some timings: a floor is what can be reached, not what is usual."""
    rates = {level: _read_rate(table, working_set(level), repeats) for level in LEVELS}
    peak = max(timing.multiply_adds_per_second(table, _ROUNDS) for _ in range(repeats))
    return Floor(rates, peak)


def _read_rate(table: kernels.Kernels, size: int, repeats: int) -> float:
    numbers = np.ones(size // 4 // _BLOCK * _BLOCK, np.float32)
    passes = max(1, _READ_BYTES // numbers.nbytes)
    timing.read(table, numbers, 1)
    return passes * numbers.nbytes / min(timing.read(table, numbers, passes) for _ in range(repeats))
