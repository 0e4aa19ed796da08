"""`ops` in plain torch: any device and type, differentiable by torch; what the kernels are tested against."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from kserve.train.packing import Packing


def add_norm(
    x: Tensor, y: Tensor | None, dropout: float, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """See `ops.add_norm`."""
    if y is not None:
        x = x + functional.dropout(y, dropout)
    return x, functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps).to(dtype)


def glu(u: Tensor) -> Tensor:
    """See `ops.glu`."""
    return functional.glu(u, -1)


def relu_(x: Tensor) -> Tensor:
    """See `ops.relu_`."""
    return functional.relu_(x)


def _band(weights: Tensor, left: int) -> Tensor:
    """Weights (groups, time, taps) on diagonals: [t, t + j - left] of (groups, time, time) is j of t."""
    groups, time, taps = weights.shape
    spread = functional.pad(weights, (0, time))  # row t shifted by t: one number more than the row is long
    band = spread.reshape(groups, -1)[:, : time * (time + taps - 1)].view(groups, time, time + taps - 1)
    return band[:, :, left : left + time]


def convolve(x: Tensor, scores: Tensor, packing: Packing, window: tuple[int, int, int]) -> Tensor:
    """See `ops.convolve`; a product with a banded (time, time) matrix: sentences are shorter than windows."""
    heads, taps, left = window
    padded, shares = packing.pad(x), packing.pad(scores.view(-1, heads, taps).softmax(-1))
    batch, time, channels = padded.shape
    by_head = padded.view(batch, time, heads, -1).transpose(1, 2).reshape(batch * heads, time, -1)
    band = _band(shares.transpose(1, 2).reshape(batch * heads, time, taps), left)
    y = torch.bmm(band, by_head).view(batch, heads, time, -1).transpose(1, 2)
    return packing.pack(y.reshape(batch, time, channels))


def attend(
    query: Tensor, keys_values: tuple[Tensor, Tensor], packings: tuple[Packing, Packing], heads: int
) -> Tensor:
    """See `ops.attend`."""
    target, source = packings

    def split(x: Tensor, packing: Packing) -> Tensor:
        padded = packing.pad(x)
        return padded.view(*padded.shape[:2], heads, -1).transpose(1, 2)

    key, value = (split(x, source) for x in keys_values)
    # A sentence without a token would be all masked: let it see zeros.
    mask = source.mask | ~source.mask.any(1, keepdim=True)
    # cuDNN, the default of some devices, plans anew for every pair of lengths: longer than a step takes.
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        y = functional.scaled_dot_product_attention(
            split(query, target), key, value, attn_mask=mask[:, None, None]
        )
    return target.pack(y.transpose(1, 2).flatten(2))


def embed(tables: tuple[Tensor, Tensor], places: tuple[Tensor, Tensor], dropout: float) -> Tensor:
    """See `ops.embed`."""
    table, positions = tables
    ids, rows = places
    x = functional.embedding(ids.long(), table) * math.sqrt(table.shape[1]) + positions[rows.long()]
    return functional.dropout(x, dropout)


def loss_and_gradient(scores: Tensor, target: Tensor, smoothing: float, weight: float) -> Tensor:
    """Turn scores (rows, vocabulary) into their gradient in place; returns the summed (loss, nll)."""
    real = (target >= 0).unsqueeze(1)
    wanted = target.clamp_min(0).long().unsqueeze(1)
    plain = scores.double() if scores.dtype == torch.float64 else scores.float()
    log_norm = plain.logsumexp(1, keepdim=True)
    nll = log_norm - plain.gather(1, wanted)
    loss = (1 - smoothing) * nll + smoothing * (log_norm - plain.mean(1, keepdim=True))
    gradient = (plain - log_norm).exp_().sub_(smoothing / scores.shape[1])
    gradient.scatter_add_(1, wanted, gradient.new_full(wanted.shape, smoothing - 1))
    scores.copy_(gradient.mul_(weight * real))
    return torch.stack(((loss * real).sum(), (nll * real).sum())).double()
