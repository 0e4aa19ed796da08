"""`kserve bench cuda`: the CUDA butterfly against dense products and a copy, and the thresholds that follow.

Every way of multiplying is checked against float64 first. Each is then recorded as a CUDA graph of several
calls, so that the device is timed and not Python; in a round each graph runs once, and the median over rounds
is shown.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kserve.bench.check import DisagreementError
from kserve.errors import MissingDependency
from kserve.kmatrix import KLinear, cuda
from kserve.kmatrix.factors import Grid, grid_gradients, multiply_grid
from kserve.kmatrix.layers import dense_weights

Call = Callable[[], object]
Calls = dict[str, tuple[Call, int]]  # by name: a call, and how many products it makes
Timer = Callable[[], float]  # seconds of one call
Clock = Callable[[Call], Timer]

CALLS_IN_GRAPH = 10
_LAYERS_TOGETHER = 8  # whose dense matrices are built in one call, as those of a model are; large ones singly
_LARGEST_TOGETHER = 2048
# Building a dense matrix of 16 384 with its gradient takes more memory than a device has.
_LARGEST_BUILT = 8192
_ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-6}  # of a result, as a share of its largest number


@dataclass(frozen=True)
class CudaPlan:
    """Sizes n of a square layer of width 1, numbers of rows, and rounds."""

    sizes: Sequence[int]
    rows: Sequence[int]
    repeats: int = 15


def require_device() -> torch.device:
    """The CUDA device, able to run the kernels; raises MissingDependency with what is missing."""
    if not torch.cuda.is_available():
        raise MissingDependency(
            "this benchmark needs a CUDA device, and torch sees none; run it on a machine with one"
        )
    obstacle = cuda.choice_for(torch.cuda.current_device()).obstacle
    if obstacle:
        raise MissingDependency(f"the CUDA kernels cannot run: {obstacle}")
    return torch.device("cuda", torch.cuda.current_device())


@cache
def _recording_stream() -> torch.cuda.Stream:
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """The stream for everything: in the end a backward pass waits for the streams that its leaves belong to,
    and a wait for the default stream breaks the recording of a graph off."""
    return torch.cuda.stream(_recording_stream()) if device.type == "cuda" else nullcontext()


def cuda_clock(call: Call) -> Timer:
    """Times a call on the device, recorded as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.autograd.set_multithreading_enabled(False):
        for _ in range(3):  # what is compiled, chosen or allocated on first use
            call()
        with torch.cuda.graph(graph, stream=_recording_stream()):
            for _ in range(CALLS_IN_GRAPH):
                call()

    def once() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / CALLS_IN_GRAPH

    return once


def run_cuda(plan: CudaPlan, device: torch.device, clock: Clock = cuda_clock) -> list[dict[str, Any]]:
    """A record for each size, number of rows, and `forward` or `training` (forward and backward)."""
    with _own_stream(device):
        return [record for size in plan.sizes for record in _of_size(size, plan, device, clock)]


def _of_size(size: int, plan: CudaPlan, device: torch.device, clock: Clock) -> list[dict[str, Any]]:
    """The records of one layer."""
    records = []
    torch.manual_seed(size)
    layer = KLinear(size, size, bias=False).to(device)
    for rows in plan.rows:
        x = torch.randn(rows, size, device=device)
        check(layer, x)
        for mode, calls in (("forward", forward_calls(layer, x)), ("training", training_calls(layer, x))):
            record = {"n": size, "rows": rows, "mode": mode, "device": device_name(device)}
            records.append(record | _times(calls, clock, plan.repeats))
    return records


def thresholds(records: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """For each n, the most rows measured at which the kernel trained faster than the matrix built anew."""
    result: dict[int, int] = {}
    for one in records:
        if one["mode"] == "training":
            wins = one["built_us"] is None or one["kernel_us"] < one["built_us"]
            result[one["n"]] = max(result.get(one["n"], 0), one["rows"] if wins else 0)
    return result


def device_name(device: torch.device) -> str:
    """The device's name, such as `NVIDIA H100 80GB HBM3`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def check(layer: KLinear, x: Tensor) -> None:
    """Raise DisagreementError unless the kernel's product and gradients are float64's, in both types."""
    grid = Grid(layer.tile, layer.out_features)
    for dtype, bound in _ROUNDING.items():
        rows = x.to(dtype).requires_grad_()
        y = cuda.multiply(rows, layer.twiddle, None, grid)
        found = (y, *torch.autograd.grad(y.float().square().sum() / 2, (rows, layer.twiddle)))
        exact = (rows.detach().double(), layer.twiddle.detach().double())
        # The gradient of half the sum of squares is y itself, which the kernel rounds to its type.
        wanted = (multiply_grid(*exact, grid), *grid_gradients(*exact, y.detach().double(), grid.tile))
        for ours, theirs in zip(found, wanted, strict=True):
            error = ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()
            if not error <= bound:
                raise DisagreementError(
                    f"the CUDA kernel at n {layer.inner}, {len(x)} rows, {dtype} is off by {error:.1e}; "
                    f"at most {bound:.1e} is rounding; no figure is printed for a wrong answer"
                )


def forward_calls(layer: KLinear, x: Tensor) -> Calls:
    """The ways of one product with bfloat16 rows; all but `built` and `factors` have their weights ready."""
    low, grid = x.bfloat16(), Grid(layer.tile, layer.out_features)
    twiddle, out = layer.twiddle.detach(), torch.empty_like(low)
    halves = twiddle.bfloat16()
    calls: Calls = {
        "kernel": (lambda: cuda.multiply(low, twiddle, None, grid), 1),
        "kernel_bf16_twiddles": (lambda: cuda.multiply(low, halves, None, grid), 1),
        "copy": (lambda: out.copy_(low), 1),
        "factors": (lambda: multiply_grid(low, halves, grid), 1),
    }
    if layer.inner <= _LARGEST_BUILT:
        layers = _like(layer)
        with torch.no_grad():
            dense = layer.to_dense().bfloat16()
        calls["dense"] = (lambda: functional.linear(low, dense), 1)
        calls["built"] = (torch.no_grad()(lambda: _built(layers, low)), len(layers))
    return calls


def training_calls(layer: KLinear, x: Tensor) -> Calls:
    """The same, with the gradients of the rows and of the weights."""
    low, grid = x.bfloat16().requires_grad_(), Grid(layer.tile, layer.out_features)
    grad, out = torch.randn_like(low), torch.empty_like(low)

    def both(product: Callable[[], Tensor], weight: Tensor) -> tuple[Call, int]:
        return lambda: torch.autograd.grad(product(), (low, weight), grad), 1

    calls: Calls = {
        "kernel": both(lambda: cuda.multiply(low, layer.twiddle, None, grid), layer.twiddle),
        "copy": (lambda: out.copy_(low.detach()), 1),
        "factors": both(lambda: multiply_grid(low, layer.twiddle.to(low.dtype), grid), layer.twiddle),
    }
    if layer.inner <= _LARGEST_BUILT:
        dense = layer.to_dense().detach().bfloat16().requires_grad_()
        calls["dense"] = both(lambda: functional.linear(low, dense), dense)
        layers = _like(layer)
        weights, grads = [low, *(one.twiddle for one in layers)], [grad] * len(layers)
        calls["built"] = (lambda: torch.autograd.grad(_built(layers, low), weights, grads), len(layers))
    return calls


def _like(layer: KLinear) -> list[KLinear]:
    """So many layers of this size as a model may have."""
    count = _LAYERS_TOGETHER if layer.inner <= _LARGEST_TOGETHER else 1
    size, device = layer.in_features, layer.twiddle.device
    return [layer, *(KLinear(size, size, bias=False).to(device) for _ in range(count - 1))]


def _built(layers: Sequence[KLinear], low: Tensor) -> list[Tensor]:
    """The product with each layer, dense matrices built in one call."""
    weights = dense_weights(layers, [layer.twiddle for layer in layers], torch.bfloat16)
    return [functional.linear(low, weight) for weight in weights]


TIMED = ("kernel", "kernel_bf16_twiddles", "dense", "built", "factors", "copy")


def _times(calls: Calls, clock: Clock, repeats: int) -> dict[str, Any]:
    """Median microseconds of a product, least and most of the kernel's; of a way that cannot be, None."""
    timers = {name: (clock(call), products) for name, (call, products) in calls.items()}
    taken: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, (timer, products) in timers.items():
            taken[name].append(timer() * 1e6 / products)
    result: dict[str, Any] = {
        f"{name}_us": statistics.median(taken[name]) if name in taken else None for name in TIMED
    }
    kernel = taken["kernel"]
    return result | {
        "kernel_us_min": min(kernel),
        "kernel_us_max": max(kernel),
        "share_of_copy": result["copy_us"] / result["kernel_us"],
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records for a person, the rivals as multiples of the kernel's time."""
    lines = [
        f"{'n':>6}{'rows':>7} {'mode':<9}{'kernel µs':>10}{'(min … max)':>20}{'bf16 twiddles':>15}"
        f"{'dense bf16':>18}{'built':>18}{'factors':>18}{'copy µs':>10}{'reached':>9}"
    ]
    for one in records:
        spread = f"({one['kernel_us_min']:.1f} … {one['kernel_us_max']:.1f})"
        rivals = "".join(
            _against(one[f"{name}_us"], one["kernel_us"]) for name in ("dense", "built", "factors")
        )
        halves = one["kernel_bf16_twiddles_us"]
        lines.append(
            f"{one['n']:>6}{one['rows']:>7} {one['mode']:<9}{one['kernel_us']:>10.1f}{spread:>20}"
            f"{'–' if halves is None else format(halves, '.1f'):>15}{rivals}{one['copy_us']:>10.1f}"
            f"{one['share_of_copy']:>9.0%}"
        )
    lines.append(
        "bfloat16 rows; medians of CUDA graphs; checked against float64; reached: share of the speed of a"
    )
    lines.append(
        "copy of the rows, the floor; dense: weights ready; built: from the factors, eight layers at once"
    )
    return "\n".join(lines)


def _against(rival: float | None, kernel: float) -> str:
    return f"{'–':>18}" if rival is None else f"{rival:>11.1f}{rival / kernel:>6.1f}x"
