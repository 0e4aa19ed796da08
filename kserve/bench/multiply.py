"""`kserve bench multiply`: a K-matrix multiplied forward and backward on the CPU, in every way that there is.

    torch       the factors one by one, by torch and its autograd: the twin that all others are compared with
    butterfly   the extension's kernel on the factors, float32
    grown       multiplied out by the extension's kernel, then one matrix product, float32
    grown-low   the same in bfloat16
    dense       one matrix product of a matrix that is there already: as fast as multiplying out can be
    dense-low   the same in bfloat16

The ways take turns; each one's result and gradients are compared with float64 first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kserve.bench.machine import spread
from kserve.errors import EngineFailure
from kserve.kmatrix import KLinear, butterfly_multiply, linear, materialize, materialized
from kserve.train.memory import keep_freed_memory

Way = Callable[[KLinear, Tensor], Tensor]
# Largest error over the largest value, of results and gradients.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def _torch(layer: KLinear, x: Tensor) -> Tensor:
    return butterfly_multiply(layer.twiddle, x.unsqueeze(1)).squeeze(1)


def _butterfly(layer: KLinear, x: Tensor) -> Tensor:
    return layer(x)


def _grown(layer: KLinear, x: Tensor) -> Tensor:
    with materialized(layer, x.dtype):
        return layer(x)


def _grown_low(layer: KLinear, x: Tensor) -> Tensor:
    return _grown(layer, x.bfloat16()).float()


WAYS: dict[str, Way] = {
    "torch": _torch,
    "butterfly": _butterfly,
    "grown": _grown,
    "grown-low": _grown_low,
}


class _Dense:
    """One matrix product, of the layer's own dense weight, made once."""

    def __init__(self, layer: KLinear, dtype: torch.dtype) -> None:
        self.weight = layer.to_dense().detach().to(dtype).requires_grad_()

    def __call__(self, layer: KLinear, x: Tensor) -> Tensor:
        assert layer.bias is not None
        return linear(x.to(self.weight.dtype), self.weight, layer.bias).float()


def _check(name: str, way: Way, layer: KLinear, x: Tensor) -> None:
    """Raises EngineFailure where result or gradients are far from float64's."""
    exact = layer.twiddle.detach().double().requires_grad_()
    x64 = x.detach().double().requires_grad_()
    wanted = x64 @ materialize(exact)[0].T
    grad = torch.randn_like(x)
    references = (wanted, *torch.autograd.grad(wanted, (x64, exact), grad.double()))
    y = way(layer, x)
    found: Sequence[Tensor | None] = (y, *torch.autograd.grad(y, (x, layer.twiddle), grad, allow_unused=True))
    tolerance = TOLERANCES[torch.bfloat16 if name.endswith("low") else torch.float32]
    for ours, theirs in zip(found, references, strict=True):
        if ours is None:  # a dense weight has no twiddle
            continue
        error = float((ours.detach() - theirs.detach()).abs().max() / theirs.detach().abs().max())
        if not error < tolerance:
            raise EngineFailure(f"{name} of {x.shape[0]} rows is off by {error:.1e} of the largest value")


def _seconds(way: Way, layer: KLinear, x: Tensor, grad: Tensor) -> float:
    started = time.perf_counter()
    way(layer, x).backward(grad)
    return time.perf_counter() - started


def run_multiply(sizes: Sequence[int], rows: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """A record for each size, number of rows and way; one thread."""
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    records = []
    for n in sizes:
        layer = KLinear(n, n)
        ways = WAYS | {"dense": _Dense(layer, torch.float32), "dense-low": _Dense(layer, torch.bfloat16)}
        for count in rows:
            x, grad = torch.randn(count, n, requires_grad=True), torch.randn(count, n)
            for name, way in ways.items():
                _check(name, way, layer, x)
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(repeats):
                for name, way in ways.items():
                    seconds[name].append(_seconds(way, layer, x, grad))
            records += [
                {"n": n, "rows": count, "way": name, "seconds": spread(took)}
                for name, took in seconds.items()
            ]
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    """Microseconds of forward and backward, and how many times faster than torch."""
    names = list(dict.fromkeys(record["way"] for record in records))
    lines = [f"{'n':>5} {'rows':>6} " + " ".join(f"{name:>18}" for name in names)]
    for n, rows in dict.fromkeys((record["n"], record["rows"]) for record in records):
        medians = {r["way"]: r["seconds"]["median"] for r in records if (r["n"], r["rows"]) == (n, rows)}
        cells = [f"{medians[name] * 1e6:.0f} ({medians['torch'] / medians[name]:.1f} x)" for name in names]
        lines.append(f"{n:5} {rows:6} " + " ".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
