"""The extension module's training kernels as torch operations: float32 and bfloat16 tensors on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from kserve import _engine
from kserve.config import Settings


def usable(x: Tensor) -> bool:
    """Whether the extension can work on this tensor: float32 or bfloat16 on the CPU."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def as_array(x: Tensor) -> NDArray[Any]:
    """The tensor's own memory, in row-major order, as the kernels take it: bfloat16 as uint16."""
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


@cache
def _kernels(threads: int) -> _engine.training.Kernels:
    return _engine.training.Kernels(Settings.read().isa, threads)


def kernels() -> _engine.training.Kernels:
    """The kernels on as many threads as torch uses."""
    return _kernels(torch.get_num_threads())


class ButterflyLayer(torch.autograd.Function):
    """x (rows, in) times the grid of K-matrices of twiddle, plus bias (out); all float32.

    The backward pass computes the intermediate values again instead of keeping them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, twiddle: Tensor, bias: Tensor, tile: int) -> Tensor:
        x, twiddle = x.contiguous(), twiddle.contiguous()
        ctx.save_for_backward(x, twiddle)
        ctx.tile = tile
        arrays = (as_array(x), as_array(twiddle), as_array(bias))
        return torch.from_numpy(_engine.butterfly_forward(*arrays, tile, threads=torch.get_num_threads()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, twiddle = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x, grad_twiddle = _engine.butterfly_backward(
            x.numpy(), as_array(twiddle), grad.numpy(), ctx.tile, threads=torch.get_num_threads()
        )
        return torch.from_numpy(grad_x), torch.from_numpy(grad_twiddle), sum_rows(grad), None


def butterfly_layer(x: Tensor, twiddle: Tensor, bias: Tensor | None, tile: int, out_features: int) -> Tensor:
    """The operation for a layer with or without a bias; x (rows, in) to (rows, out_features)."""
    offset = x.new_zeros(out_features) if bias is None else bias
    result: Tensor = ButterflyLayer.apply(x, twiddle, offset, tile)
    return result


def sum_rows(x: Tensor) -> Tensor:
    """Sum over the rows of x (rows, columns), in float32."""
    sums = torch.empty(x.shape[1])
    kernels().add_rows(as_array(x), as_array(sums))
    return sums


# Columns of the right-hand side from which a transposed copy pays.
TURN_FROM = 512


def transposed(x: Tensor) -> Tensor:
    """A copy of x (rows, columns) as (columns, rows)."""
    result = x.new_empty(x.shape[1], x.shape[0])
    kernels().transpose(as_array(x), as_array(result))
    return result


def multiply_transposed(x: Tensor, y: Tensor) -> Tensor:
    """x (rows, n) transposed, times y (rows, m).

    In bfloat16 the matrix library takes almost twice as long for a transposed view as for one that lies so.
    """
    copies = x.dtype == torch.bfloat16 and y.shape[1] >= TURN_FROM
    return (transposed(x) if copies else x.t()) @ y


class Linear(torch.autograd.Function):
    """x (rows, in) times weight (out, in) transposed, plus bias (out), computed in the type of x.

    Weight and bias may be of higher precision and get gradients of theirs; the bias's is summed in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        low = weight.to(x.dtype)
        ctx.save_for_backward(x, low)
        ctx.weight_dtype = weight.dtype
        if x.dtype == torch.bfloat16:
            return torch.ops.mkldnn._linear_pointwise(x, low, bias.to(x.dtype), "none", [], "")
        return torch.addmm(bias.to(x.dtype), x, low.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous()
        return grad @ weight, multiply_transposed(grad, x).to(ctx.weight_dtype), sum_rows(grad)


class Growth(torch.autograd.Function):
    """K-matrices multiplied out, all in one call.

    Each twiddle comes with (rows, columns, tile): its matrix's sizes, and the size of a square in it; tile 0
    stands for every pair of butterflies by itself, (stacks * width * n, n).
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, shapes: Sequence[tuple[int, int, int]], *twiddles: Tensor
    ) -> tuple[Tensor, ...]:
        twiddles = tuple(twiddle.contiguous() for twiddle in twiddles)
        matrices = tuple(torch.empty(rows, columns, dtype=dtype) for rows, columns, _ in shapes)
        ctx.save_for_backward(*twiddles)
        ctx.tiles = [tile for _, _, tile in shapes]
        kernels().grow([as_array(t) for t in twiddles], [as_array(m) for m in matrices], ctx.tiles)
        return matrices

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        twiddles = ctx.saved_tensors
        results = [torch.empty_like(twiddle) for twiddle in twiddles]
        kernels().grow_backward(
            [as_array(twiddle) for twiddle in twiddles],
            [as_array(grad.contiguous()) for grad in grads],
            ctx.tiles,
            [as_array(result) for result in results],
        )
        return None, None, *results
