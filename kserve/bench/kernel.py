"""`kserve bench kernel`: one K-matrix multiply, against dense ones of its shape and the machine's limits."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kserve import dense_layout
from kserve._engine import kernels, timing
from kserve.bench.check import DisagreementError
from kserve.bench.floor import LEVELS, Timer, cache_bytes, floor_of, floor_timers, working_set
from kserve.errors import InvalidParameter
from kserve.runtime_layout import Words, pack, unpack_dense
from kserve.unit_factors import Floats

_SECONDS = 0.002  # of one timing, at least
_WORST_ERROR = 1e-4  # of a product in float32, as a share of its largest number


@dataclass(frozen=True)
class KernelPlan:
    """Sizes n of a square K-matrix of width 1, and on what to run them."""

    sizes: Sequence[int]
    rows: Sequence[int] = (1,)
    isas: Sequence[str] = ()  # none: all that this machine has
    weights_in: Sequence[str] = LEVELS
    repeats: int = 15


@dataclass(frozen=True)
class Weights:
    """One square of size n in every form, enough copies of each to fill `size` bytes."""

    layer: kernels.KMatrixLayer
    words: Words  # (copies, 1, 1, words)
    floats: list[kernels.DenseLayer]
    bytes_: list[kernels.DenseLayer]
    dense: list[torch.Tensor]  # (n, n), each transposed where it lies
    exact: Floats  # (n, n)
    exact_bytes: Floats  # (n, n), what the int8 weights stand for


def run_kernel(plan: KernelPlan) -> list[dict[str, Any]]:
    """A record for each size, number of rows, instruction set and cache level that holds the weights."""
    _check_plan(plan)
    torch.set_num_threads(1)
    records = []
    for isa in plan.isas or kernels.available():
        table = kernels.choose(isa)
        for n in plan.sizes:
            for level in plan.weights_in:
                if _fits(n, level):
                    weights = make_weights(n, working_set(level))
                    records += [_measure(table, weights, (level, rows), plan) for rows in plan.rows]
    if not records:
        raise InvalidParameter(
            f"no K-matrix of n {list(plan.sizes)} fits {', '.join(plan.weights_in)}; name a larger level"
        )
    return records


def make_weights(n: int, size: int) -> Weights:
    """A K-matrix of random rotations and its dense forms; each form takes about `size` bytes in all."""
    layer = kernels.KMatrixLayer(n, n)
    generator = np.random.default_rng(n)
    angles = generator.uniform(-np.pi / 4, np.pi / 4, (2, n.bit_length() - 1, n // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    words = pack(np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2), layer.inner)
    weight = unpack_dense(words, layer.inner, 1)[:n, :n]

    def copies(count_bytes: int) -> int:
        return max(1, size // count_bytes)

    return Weights(
        layer,
        np.tile(words, (copies(words.nbytes), 1, 1, 1)),
        [_dense_layer(weight, "float32") for _ in range(copies(4 * n * n))],
        [_dense_layer(weight, "int8") for _ in range(copies(n * n))],
        [torch.from_numpy(weight.astype(np.float32)).t() for _ in range(copies(4 * n * n))],
        weight,
        dense_layout.unpack(dense_layout.pack(weight, "int8"), n, n),
    )


def _check_plan(plan: KernelPlan) -> None:
    wrong = [n for n in plan.sizes if n < 16 or n & (n - 1)]
    if wrong:
        raise InvalidParameter(f"--n names {wrong[0]}; expected powers of two from 16 on")
    unknown = sorted(set(plan.weights_in) - set(LEVELS))
    if unknown:
        raise InvalidParameter(f"--weights-in names {unknown[0]}; expected some of: {', '.join(LEVELS)}")
    missing = sorted(set(plan.isas) - set(kernels.available()))
    if missing:
        raise InvalidParameter(
            f"--isa names {missing[0]}; this machine has: {', '.join(kernels.available())}"
        )


def _fits(n: int, level: str) -> bool:
    """Whether one square lies within the level (and for L1 leaves room for the row)."""
    return 4 * kernels.KMatrixLayer(n, n).words_per_square + 8 * n <= cache_bytes()[level]


def _dense_layer(weight: Floats, precision: str) -> kernels.DenseLayer:
    parts = dense_layout.pack(weight, precision)
    return kernels.DenseLayer(len(weight), len(weight), parts["dense"], parts.get("dense_scale"))


def _measure(
    table: kernels.Kernels, weights: Weights, place: tuple[str, int], plan: KernelPlan
) -> dict[str, Any]:
    """Check, then time the four and what bounds them alternately."""
    level, rows = place
    n = weights.layer.inputs
    x = np.random.default_rng(rows).standard_normal((rows, n), dtype=np.float32)
    check_products(table, weights, x)
    timers: dict[str, Timer] = {
        "kmatrix": lambda calls: timing.kmatrix(table, weights.layer, weights.words, x, calls),
        "dense_fp32": _torch_timer(weights, x),
        "dense_fp32_own": lambda calls: timing.dense(table, weights.floats, x, calls),
        "dense_int8": lambda calls: timing.dense(table, weights.bytes_, x, calls),
    }
    taken = time_alternately({**timers, **floor_timers(table, weights.words)}, plan.repeats)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    floor = floor_of(medians, weights.layer, rows)
    return {
        "n": n,
        "rows": rows,
        "isa": table.name,
        "threads": 1,
        "weights_in": level,
        **{f"{name}_us": medians[name] * 1e6 for name in timers},
        "kmatrix_us_min": min(taken["kmatrix"]) * 1e6,
        "kmatrix_us_max": max(taken["kmatrix"]) * 1e6,
        "floor_us": floor.seconds * 1e6,
        "reading_us": floor.reading * 1e6,
        "arithmetic_us": floor.arithmetic * 1e6,
        "share_of_floor": floor.seconds / medians["kmatrix"],
        "gigabytes_per_second": 4e-9 * weights.layer.words_per_square / floor.reading,
    }


def check_products(table: kernels.Kernels, weights: Weights, x: NDArray[np.float32]) -> None:
    """All four products against float64."""
    rows = x.astype(np.float64)
    want = rows @ weights.exact.T
    got = {
        "kmatrix": table.kmatrix(weights.layer, weights.words[0], x),
        "float32": table.dense(weights.floats[0], x),
        "torch": torch.mm(torch.from_numpy(x), weights.dense[0]).numpy(),
    }
    largest = _WORST_ERROR * float(np.abs(want).max())
    for name, result in got.items():
        _require(f"{name} product on {table.name}", np.abs(result - want), largest)
    # Each input is rounded by half a step at most.
    half_step = np.abs(rows).max(axis=1, keepdims=True) / 254
    bound = 1.001 * half_step * np.abs(weights.exact_bytes).sum(axis=1) + largest
    error = np.abs(table.dense(weights.bytes_[0], x) - rows @ weights.exact_bytes.T)
    _require(f"int8 product on {table.name}", error, bound)


def _require(what: str, error: NDArray[Any], bound: NDArray[Any] | float) -> None:
    """Raise DisagreementError where an error (rows, n) is beyond its bound, or no number."""
    if not (error <= bound).all():
        times = float((error / bound).max())
        raise DisagreementError(
            f"the {what} of n {error.shape[1]}, {len(error)} rows is off by {times:.2g} times what "
            "rounding explains; no figure is printed for a wrong answer"
        )


def _torch_timer(weights: Weights, x: NDArray[np.float32]) -> Timer:
    """oneDNN or MKL through torch, without allocating; the call from Python is part of it."""
    rows, result = torch.from_numpy(x), torch.empty(x.shape)
    dense, multiply = weights.dense, torch.mm

    def run(calls: int) -> float:
        started = time.perf_counter()
        for call in range(calls):
            multiply(rows, dense[call % len(dense)], out=result)
        return time.perf_counter() - started

    return run


def time_alternately(timers: dict[str, Timer], repeats: int) -> dict[str, list[float]]:
    """Seconds of one call, by name and repeat; the timers take turns within every repeat."""
    calls = {}
    for name, timer in timers.items():
        count = 1
        while (took := timer(count)) < _SECONDS:
            count = max(2 * count, int(count * 1.2 * _SECONDS / max(took, 1e-7)))
        calls[name] = count
    taken: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, timer in timers.items():
            taken[name].append(timer(calls[name]) / calls[name])
    return taken


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for a person, with the dense products as multiples of the K-matrix's time."""
    lines = [
        f"{'isa':<11}{'n':>5}{'rows':>5} {'in':<3}{'K µs':>9}{'(min … max)':>19}{'fp32 torch':>16}"
        f"{'fp32 own':>16}{'int8 own':>16}{'floor µs':>10}{'reached':>9}"
    ]
    for one in records:
        spread = f"({one['kmatrix_us_min']:.2f} … {one['kmatrix_us_max']:.2f})"
        times = [one[key] for key in ("dense_fp32_us", "dense_fp32_own_us", "dense_int8_us")]
        rivals = "".join(f"{took:>9.2f}{took / one['kmatrix_us']:>6.1f}x" for took in times)
        lines.append(
            f"{one['isa']:<11}{one['n']:>5}{one['rows']:>5} {one['weights_in']:<3}{one['kmatrix_us']:>9.2f}"
            f"{spread:>19}{rivals}{one['floor_us']:>10.3f}{one['share_of_floor']:>9.0%}"
        )
    lines.append(
        "one thread; medians; every product was checked against float64; the floor is reading the weights, or"
    )
    lines.append("their arithmetic in registers, whichever takes longer, both timed in turn with the product")
    return "\n".join(lines)
