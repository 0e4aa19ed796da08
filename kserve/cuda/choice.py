"""How a K layer multiplies on a CUDA device, by thresholds that `kserve bench cuda` measures and saves.

    Choice.load("NVIDIA H100 80GB HBM3", cache).route(rows=64, size=2048)      # Route.KERNEL

Three ways give the same product: the butterfly kernel (few rows, or large n), the dense matrix built from the
factors with one matrix product (many rows), and the factors one by one in torch (where the kernel cannot run
and there are few rows).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from kserve.errors import SettingsError

FILE = "cuda-thresholds.json"

# Where the kernel cannot run: from this many rows on, building the dense matrix and one matrix product beats
# running the factors one by one.
MATERIALIZE_ROWS = 64

# Until somebody measures on the device at hand: what an H200 gave for n from 512 to 4096
# (docs/benchmarks/cuda.json). Above, a dense matrix takes 256 MB and more for each square.
ESTIMATED = {
    **{2**log_n: 256 for log_n in range(1, 10)},
    1024: 1024,
    2048: 1024,
    4096: 4096,
    **dict.fromkeys((8192, 16384), 1 << 20),
}


class Route(Enum):
    """A way of multiplying; the value is how logs call it."""

    KERNEL = "CUDA butterfly kernel"
    DENSE = "dense matrix from the factors, one product"
    FACTORS = "factors one by one in torch"


@dataclass(frozen=True)
class Choice:
    """Thresholds of one device.

    Attributes:
        device: Its name.
        rows: For each size n, up to how many rows the kernel beats building the dense matrix, forward and
            backward together.
        measured: Whether they were measured on a device of this name, or are estimates.
        obstacle: Why the kernel cannot run; empty if it can.
        largest: The largest size that the kernel can do on the device.
    """

    device: str
    rows: Mapping[int, int]
    measured: bool = False
    obstacle: str = ""
    largest: int = 1 << 14

    @classmethod
    def load(cls, device: str, cache: Path, obstacle: str = "") -> Choice:
        """The thresholds that were saved for this device, or the estimates.

        Raises:
            SettingsError: the file is there but holds no thresholds.
        """
        saved = _read(cache / FILE).get(device)
        return cls(device, ESTIMATED if saved is None else saved, saved is not None, obstacle)

    def save(self, cache: Path) -> Path:
        """Write the thresholds, beside those of other devices; returns the file."""
        file = cache / FILE
        everything = {**_read(file), self.device: dict(self.rows)}
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(".tmp")
        draft.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
        draft.replace(file)
        return file

    def limit(self, size: int, types: bool = True) -> tuple[bool, int]:
        """Whether the kernel does squares of `size` (`types`: whether it takes theirs), and up to which rows.

        Where it does not, the factors one by one do as many rows; above them it is the dense matrix.
        """
        if types and size <= self.largest and not self.obstacle:
            return True, self._rows(size)
        return False, MATERIALIZE_ROWS - 1

    def route(self, rows: int, size: int, types: bool = True) -> Route:
        """How so many rows are multiplied by squares of `size`."""
        return by_limit(rows, *self.limit(size, types))

    def explain(self) -> str:
        """The rule in a line, for logs and `kserve info`."""
        if self.obstacle:
            return (
                f"{Route.DENSE.value} from {MATERIALIZE_ROWS} rows on, else {Route.FACTORS.value}; "
                f"no CUDA kernel: {self.obstacle}"
            )
        source = "measured" if self.measured else "estimated; measure with `kserve bench cuda`"
        limits = ", ".join(f"{rows} at n {n}" for n, rows in sorted(self.rows.items()) if n >= 256)
        return f"{Route.KERNEL.value} up to so many rows: {limits} ({source}); else {Route.DENSE.value}"

    def _rows(self, size: int) -> int:
        """The threshold of the nearest size that has one."""
        return self.rows[min(self.rows, key=lambda known: abs(known.bit_length() - size.bit_length()))]


def by_limit(rows: int, kernel: bool, most: int) -> Route:
    """How so many rows are multiplied, by a limit that `Choice.limit` gave."""
    if rows > most:
        return Route.DENSE
    return Route.KERNEL if kernel else Route.FACTORS


def _read(file: Path) -> dict[str, dict[int, int]]:
    """Thresholds by device, none if the file is not there."""
    try:
        data: Any = json.loads(file.read_text(encoding="utf-8"))
        return {
            str(device): {int(size): int(rows) for size, rows in table.items()}
            for device, table in data.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{file} holds no thresholds ({type(error).__name__}); remove it and run `kserve bench cuda`"
        ) from None
