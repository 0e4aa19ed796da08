"""The butterfly multiply of the extension module as a torch operation: float32, on the CPU, many rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kserve import _engine


class ButterflyLayer(torch.autograd.Function):
    """x (rows, in) times the grid of K-matrices of twiddle, plus bias (out).

    The backward pass computes the intermediate values again instead of keeping them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, twiddle: Tensor, bias: Tensor, tile: int) -> Tensor:
        x, twiddle = x.contiguous(), twiddle.contiguous()
        ctx.save_for_backward(x, twiddle)
        ctx.tile = tile
        arrays = (x.detach().numpy(), twiddle.detach().numpy(), bias.detach().numpy())
        return torch.from_numpy(_engine.butterfly_forward(*arrays, tile, threads=torch.get_num_threads()))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, twiddle = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_x, grad_twiddle = _engine.butterfly_backward(
            x.numpy(), twiddle.detach().numpy(), grad.numpy(), ctx.tile, threads=torch.get_num_threads()
        )
        return torch.from_numpy(grad_x), torch.from_numpy(grad_twiddle), grad.sum(0), None


def butterfly_layer(x: Tensor, twiddle: Tensor, bias: Tensor | None, tile: int, out_features: int) -> Tensor:
    """The operation for a layer with or without a bias; x (rows, in) to (rows, out_features)."""
    offset = x.new_zeros(out_features) if bias is None else bias
    result: Tensor = ButterflyLayer.apply(x, twiddle, offset, tile)
    return result


def usable(x: Tensor) -> bool:
    """Whether the extension can multiply this tensor: float32 on the CPU."""
    return x.device.type == "cpu" and x.dtype == torch.float32
