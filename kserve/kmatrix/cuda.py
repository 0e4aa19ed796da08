"""The CUDA butterfly as torch operators: all factors of a layer's K-matrices in one launch.

`torch.ops.kserve.butterfly_layer` and its backward operator have a plain-torch twin (factors.multiply_grid),
which runs on the CPU and is the reference; fake tensors, autograd and torch.compile know them. The kernels
are compiled on first use (kserve/cuda/nvcc.py) and bound by a C interface, so to no version of torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kserve.config import Settings
from kserve.cuda.choice import Choice, Route, by_limit
from kserve.cuda.nvcc import CudaUnavailable, build, compiler
from kserve.kmatrix.butterfly_library import TYPES, ButterflyLibrary
from kserve.kmatrix.factors import Grid, grid_gradients, multiply_grid


@cache
def load_library(capability: tuple[int, int]) -> ButterflyLibrary:
    """The kernels for devices of this compute capability, compiled if need be; raises CudaUnavailable."""
    settings = Settings.read()
    return ButterflyLibrary(build(compiler(settings.nvcc), capability, settings.cache))


@cache
def choice_for(index: int) -> Choice:
    """When which kernel runs on the CUDA device of this number. Compiles the kernels the first time."""
    obstacle, largest = "", 0
    try:
        library = load_library(torch.cuda.get_device_capability(index))
        largest = library.largest(torch.device("cuda", index))
    except CudaUnavailable as error:
        obstacle = str(error)
    found = Choice.load(torch.cuda.get_device_name(index), Settings.read().cache)
    return replace(found, obstacle=obstacle, largest=largest)


# torch.compile asks once, while it traces, and takes the numbers for constants.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _limit(index: int, size: int, types: bool) -> tuple[bool, int]:
    return choice_for(index).limit(size, types)


WITHOUT_DEVICE = Choice("", {}, obstacle="not a CUDA device")


def route(rows: int, dtype: torch.dtype, twiddle: Tensor) -> Route:
    """How so many rows of this type are multiplied where the CPU's own kernel does not serve."""
    size = 2 * twiddle.shape[3]
    if twiddle.device.type != "cuda":
        return WITHOUT_DEVICE.route(rows, size)
    return by_limit(rows, *_limit(_index(twiddle.device), size, dtype in TYPES and twiddle.dtype in TYPES))


def explain(device: torch.device) -> str:
    """How K layers multiply on this device, in a line for logs."""
    choice = choice_for(_index(device)) if device.type == "cuda" else WITHOUT_DEVICE
    return choice.explain()


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def multiply(x: Tensor, twiddle: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
    """`butterfly_layer`, its input in the type of autocast where that is on; twiddles keep theirs."""
    if torch.is_autocast_enabled("cuda"):
        x = x.to(torch.get_autocast_dtype("cuda"))
    result: Tensor = torch.ops.kserve.butterfly_layer(x, twiddle, bias, grid.tile, grid.out_features)
    return result


def _check(x: Tensor, twiddle: Tensor, tile: int, out_features: int) -> None:
    if x.dim() != 2 or twiddle.dim() != 6:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, twiddle {tuple(twiddle.shape)}; expected (rows, in) and "
            "(squares, 2 * width, log2 n, n / 2, 2, 2)"
        )
    squares = -(-out_features // tile) * -(-x.shape[1] // tile)
    log_n = twiddle.shape[2]
    wanted = (squares, twiddle.shape[1], log_n, 1 << (log_n - 1), 2, 2)
    if tuple(twiddle.shape) != wanted or twiddle.shape[1] % 2 or tile > 1 << log_n:
        raise ValueError(
            f"twiddle has shape {tuple(twiddle.shape)}; {x.shape[1]} -> {out_features} features in tiles of "
            f"{tile} need {squares} squares of at least that size: {wanted}"
        )


@torch.library.custom_op("kserve::butterfly_layer", mutates_args=())
def butterfly_layer(
    x: Tensor,
    twiddle: Tensor,
    bias: Tensor | None,
    tile: int,
    out_features: int,
) -> Tensor:
    """y (rows, out_features) = x (rows, in) times the grid of K-matrices of twiddle, plus bias."""
    _check(x, twiddle, tile, out_features)
    y = multiply_grid(x, twiddle.to(x.dtype), Grid(tile, out_features))
    return y if bias is None else y + bias.to(x.dtype)


@torch.library.custom_op("kserve::butterfly_layer_backward", mutates_args=())
def butterfly_layer_backward(x: Tensor, twiddle: Tensor, grad: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """The gradients of x and twiddle from that of y, grad (rows, out_features)."""
    _check(x, twiddle, tile, grad.shape[1])
    grad_x, grad_twiddle = grid_gradients(x, twiddle.to(x.dtype), grad.to(x.dtype), tile)
    return grad_x, grad_twiddle.to(twiddle.dtype)


@butterfly_layer.register_fake
def _(x: Tensor, *others: Any) -> Tensor:
    return x.new_empty(x.shape[0], others[-1])


@butterfly_layer_backward.register_fake
def _(x: Tensor, twiddle: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), twiddle.new_empty(twiddle.shape)


@butterfly_layer.register_kernel("cuda")
def _(x: Tensor, twiddle: Tensor, bias: Tensor | None, tile: int, out_features: int) -> Tensor:
    _check(x, twiddle, tile, out_features)
    if not x.shape[0]:
        return x.new_empty(0, out_features)
    with torch.cuda.device(x.device):
        library = load_library(torch.cuda.get_device_capability())
        return library.forward(x, twiddle, bias, Grid(tile, out_features))


@butterfly_layer_backward.register_kernel("cuda")
def _(x: Tensor, twiddle: Tensor, grad: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    _check(x, twiddle, tile, grad.shape[1])
    if not x.shape[0]:
        return torch.zeros_like(x), torch.zeros_like(twiddle)
    with torch.cuda.device(x.device):
        library = load_library(torch.cuda.get_device_capability())
        return library.backward(x, twiddle, grad, Grid(tile, grad.shape[1]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch names it
    x, twiddle, bias, tile, _ = inputs
    ctx.save_for_backward(x, twiddle)
    ctx.tile, ctx.bias_type = tile, None if bias is None else bias.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
    x, twiddle = ctx.saved_tensors
    grad_x, grad_twiddle = torch.ops.kserve.butterfly_layer_backward(x, twiddle, grad, ctx.tile)
    grad_bias = None if ctx.bias_type is None else grad.sum(0, dtype=torch.float32).to(ctx.bias_type)
    return grad_x, grad_twiddle, grad_bias, None, None


butterfly_layer.register_autograd(_gradients, setup_context=_keep)
