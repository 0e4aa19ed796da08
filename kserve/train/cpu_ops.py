"""`ops` by the extension's kernels: float32 and bfloat16 on the CPU, each with its own backward pass.

Dropout keeps no mask: a number is dropped or kept by a hash of a seed and its place, and hashed again in the
backward pass. The seed comes from torch's generator.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kserve.kmatrix.cpu import as_array, kernels
from kserve.train.packing import Packing


def _choice(dropout: float) -> tuple[int, float]:
    """Seed and probability; no seed is drawn where nothing is dropped."""
    return (int(torch.randint(1 << 32, ())), dropout) if dropout > 0 else (0, 0.0)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gain: Tensor, bias: Tensor, plan: tuple[float, float]) -> Any:
        dropout, epsilon = plan
        ctx.set_materialize_grads(False)
        ctx.choice, ctx.adds = _choice(dropout if len(y) else 0.0), len(y) > 0
        x = x.contiguous()
        total = torch.empty_like(x) if ctx.adds else x.new_empty(0, x.shape[1])
        out, moments = torch.empty(x.shape, dtype=y.dtype), torch.empty(len(x), 2)
        kernels().add_norm(
            (as_array(x), as_array(y)),
            ctx.choice,
            (as_array(gain), as_array(bias), epsilon),
            (as_array(total), as_array(out), as_array(moments)),
        )
        ctx.save_for_backward(total if ctx.adds else x, moments, gain)
        return total, out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        total, moments, gain = ctx.saved_tensors
        grad_total, grad_out = grads
        if grad_out is None:
            raise NotImplementedError("the norm's result must be used")
        added = total.shape if ctx.adds else (0, total.shape[1])
        grad_x, grad_y = torch.empty_like(total), grad_out.new_empty(added)
        grad_gain, grad_bias = torch.empty_like(gain), torch.empty_like(gain)
        rest = total.new_empty(0, total.shape[1]) if grad_total is None else grad_total.contiguous()
        kernels().add_norm_backward(
            (as_array(total), as_array(moments), as_array(gain)),
            ctx.choice,
            (as_array(grad_out.contiguous()), as_array(rest)),
            (as_array(grad_x), as_array(grad_y), as_array(grad_gain), as_array(grad_bias)),
        )
        return grad_x, grad_y if ctx.adds else None, grad_gain, grad_bias, None


def add_norm(
    x: Tensor, y: Tensor | None, dropout: float, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops.add_norm`."""
    added = torch.empty(0, x.shape[1], dtype=dtype) if y is None else y
    total, out = _AddNorm.apply(x, added, norm.weight, norm.bias, (dropout, norm.eps))
    return x if y is None else total, out


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        y = u.new_empty(u.shape[0], u.shape[1] // 2)
        kernels().glu(as_array(u), as_array(y))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        grad_u = torch.empty_like(u)
        kernels().glu_backward(as_array(u), as_array(grads[0].contiguous()), as_array(grad_u))
        return grad_u


def glu(u: Tensor) -> Tensor:
    """See `ops.glu`."""
    y: Tensor = _Glu.apply(u.contiguous())
    return y


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min_(0)
        ctx.mark_dirty(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        grad_x = torch.empty_like(y)
        kernels().relu_backward(as_array(y), as_array(grads[0].contiguous()), as_array(grad_x))
        return grad_x


def relu_(x: Tensor) -> Tensor:
    """See `ops.relu_`; torch's own gradient of it is not vectorised on a CPU."""
    y: Tensor = _Relu.apply(x)
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scores: Tensor, offsets: NDArray[np.int32], window: tuple[int, int, int]
    ) -> Tensor:
        shares, y = torch.empty(scores.shape), torch.empty_like(x)
        inputs, outputs = (as_array(x), as_array(scores)), (as_array(shares), as_array(y))
        kernels().convolution(offsets, window, inputs, outputs)
        ctx.save_for_backward(x, shares)
        ctx.offsets, ctx.window = offsets, window
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, shares = ctx.saved_tensors
        grad_x, grad_scores = torch.empty_like(x), torch.empty(shares.shape, dtype=x.dtype)
        kernels().convolution_backward(
            ctx.offsets,
            ctx.window,
            (as_array(x), as_array(shares), as_array(grads[0].contiguous())),
            (as_array(grad_x), as_array(grad_scores)),
        )
        return grad_x, grad_scores, None, None


def convolve(x: Tensor, scores: Tensor, packing: Packing, window: tuple[int, int, int]) -> Tensor:
    """See `ops.convolve`."""
    y: Tensor = _Convolution.apply(x.contiguous(), scores.contiguous(), packing.offsets, window)
    return y


Offsets = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, heads: int) -> Tensor:
        shares, y = torch.empty(int(offsets[2][-1])), torch.empty_like(query)
        inputs = (as_array(query), as_array(key), as_array(value))
        kernels().attention(offsets, heads, inputs, (as_array(shares), as_array(y)))
        ctx.save_for_backward(query, key, value, shares)
        ctx.offsets, ctx.heads = offsets, heads
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, shares = ctx.saved_tensors
        results = [torch.empty_like(x) for x in (query, key, value)]
        kernels().attention_backward(
            ctx.offsets,
            ctx.heads,
            (
                (as_array(query), as_array(key), as_array(value)),
                as_array(shares),
                as_array(grads[0].contiguous()),
            ),
            (as_array(results[0]), as_array(results[1]), as_array(results[2])),
        )
        return (*results, None, None)


def attend(
    query: Tensor, keys_values: tuple[Tensor, Tensor], packings: tuple[Packing, Packing], heads: int
) -> Tensor:
    """See `ops.attend`."""
    target, source = packings
    shares = np.zeros(len(target.offsets), np.int64)
    np.cumsum(heads * target.lengths.astype(np.int64) * source.lengths, out=shares[1:])
    key, value = (x.contiguous() for x in keys_values)
    offsets = (target.offsets, source.offsets, shares)
    y: Tensor = _Attention.apply(query.contiguous(), key, value, offsets, heads)
    return y


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, table: Tensor, positions: Tensor, places: tuple[Tensor, Tensor], dropout: float
    ) -> Tensor:
        ctx.plan = (math.sqrt(table.shape[1]), _choice(dropout))
        ctx.tables, ctx.places = (as_array(table), as_array(positions)), tuple(map(as_array, places))
        x = torch.empty(len(places[0]), table.shape[1])
        kernels().embed(ctx.tables, ctx.places, ctx.plan, as_array(x))
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        grad_table = torch.zeros(ctx.tables[0].shape)
        outputs = (as_array(grads[0].contiguous()), as_array(grad_table))
        kernels().embed_backward(ctx.tables, ctx.places, ctx.plan, outputs)
        return grad_table, None, None, None


def embed(tables: tuple[Tensor, Tensor], places: tuple[Tensor, Tensor], dropout: float) -> Tensor:
    """See `ops.embed`."""
    x: Tensor = _Embedding.apply(*tables, places, dropout)
    return x


def loss_and_gradient(scores: Tensor, target: Tensor, smoothing: float, weight: float) -> Tensor:
    """See `torch_ops.loss_and_gradient`."""
    totals = kernels().loss(as_array(scores), as_array(target), smoothing, weight)
    return torch.tensor(totals, dtype=torch.float64)
