"""Operations of the training step that plain torch does slowly on a CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Dropout(nn.Module):
    """Dropout whose masks are cut, at random places, out of one long random mask.

    On a CPU drawing fresh random numbers and multiplying by a boolean mask took longer than the matrix
    products of a small model; a slice of a float mask costs one multiplication.

    Args:
        p: Probability of a zero, in [0, 1).
    """

    POOL = 1 << 24  # values; at least four times the largest activation in use keeps the cuts apart

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability {p} is not in [0, 1)")
        self.p = p

    @staticmethod
    @cache
    def _pool(p: float, size: int) -> Tensor:
        """Zeros with probability p, else 1 / (1 - p); the same in every process, whatever the global seed."""
        generator = torch.Generator().manual_seed(0)
        return (torch.rand(size, generator=generator) >= p).float().div_(1 - p)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.p)
        size = max(self.POOL, 4 * x.numel())
        start = int(torch.randint(size - x.numel(), ()))
        mask = self._pool(self.p, size)[start : start + x.numel()].view(x.shape)
        return x * mask.to(x.dtype)


class Relu(torch.autograd.Function):
    """ReLU whose gradient is one product: torch's own CPU gradient of it is not vectorised."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = x.clamp_min(0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * y.sign()


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    y: Tensor = Relu.apply(x)
    return y


class DynamicConvolution(torch.autograd.Function):
    """Convolution whose kernel differs by position and head, as a product with a banded matrix.

    For sentences of tens of tokens a (time, time) band is smaller than the (time, taps, channel) windows.
    """

    @staticmethod
    def _band(weights: Tensor, time: int) -> Tensor:
        """Spread weights (groups, time, taps) along the diagonals of (groups, time, time + taps - 1)."""
        groups, _, taps = weights.shape
        band = weights.new_zeros(groups, time, time + taps - 1)
        band.as_strided((groups, time, taps), (time * (time + taps - 1), time + taps, 1)).copy_(weights)
        return band

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, left: int) -> Tensor:
        """Convolve x (batch * heads, time, head_dim) with weights (batch * heads, time, taps)."""
        time = x.shape[1]
        band = DynamicConvolution._band(weights, time)[:, :, left : left + time]
        ctx.save_for_backward(x, band)
        ctx.left, ctx.taps = left, weights.shape[2]
        return torch.bmm(band, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, band = ctx.saved_tensors
        grad = grads[0].to(x.dtype)
        groups, time, _ = x.shape
        taps = ctx.taps
        grad_x = torch.bmm(band.transpose(1, 2), grad)
        full = grad.new_zeros(groups, time, time + taps - 1)
        full[:, :, ctx.left : ctx.left + time] = torch.bmm(grad, x.transpose(1, 2))
        stride = (time * (time + taps - 1), time + taps, 1)
        return grad_x, full.as_strided((groups, time, taps), stride).clone(), None


def dynamic_convolution(x: Tensor, weights: Tensor, left: int) -> Tensor:
    """Convolve x (batch, time, channel) with weights (batch, time, heads, taps).

    Output position t of a head sums `weights[t, j] * x[t + j - left]` over the taps j; positions outside
    the sentence are zero.
    """
    batch, time, channels = x.shape
    heads, taps = weights.shape[2], weights.shape[3]
    by_head = x.view(batch, time, heads, channels // heads).transpose(1, 2)
    kernels = weights.transpose(1, 2).reshape(batch * heads, time, taps).to(x.dtype)
    y = DynamicConvolution.apply(by_head.reshape(batch * heads, time, -1), kernels, left)
    return y.view(batch, heads, time, -1).transpose(1, 2).reshape(batch, time, channels)


def _loss_and_gradient(scores: Tensor, wanted: Tensor, smoothing: float) -> Tensor:
    """Turn scores (rows, vocab) into their gradient in place; returns the summed (smoothed loss, nll)."""
    chosen = scores.gather(1, wanted)
    mean = scores.mean(1, keepdim=True)
    peak = scores.amax(1, keepdim=True)
    scores.sub_(peak).exp_()
    norm = scores.sum(1, keepdim=True)
    log_norm = norm.log() + peak
    nll = log_norm - chosen
    loss = (1 - smoothing) * nll + smoothing * (log_norm - mean)
    scores.div_(norm).sub_(smoothing / scores.shape[1])
    scores.scatter_add_(1, wanted, scores.new_full(wanted.shape, smoothing - 1))
    return torch.stack((loss.sum(), nll.sum())).double()


class SmoothedCrossEntropy(torch.autograd.Function):
    """Output projection, log-softmax and label-smoothed cross-entropy in chunks of rows.

    The gradient is formed in the forward pass, so that the (rows, vocab) scores never exist as a whole.
    Loss of a row: (1 - smoothing) * nll(target) + smoothing * mean over the vocabulary of nll.
    """

    CHUNK = 512

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, target: Tensor, smoothing: float) -> Tensor:
        """hidden (rows, d), table (vocab, d), target (rows,) to the summed (smoothed loss, nll)."""
        device = hidden.device.type
        # Under autocast the products run in its type; sums and exponentials stay in the inputs' type.
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        table_low = table.to(product)
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        totals = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        for start in range(0, hidden.shape[0], SmoothedCrossEntropy.CHUNK):
            rows = slice(start, start + SmoothedCrossEntropy.CHUNK)
            hidden_low = hidden[rows].to(product)
            scores = (hidden_low @ table_low.t()).to(hidden.dtype)
            totals += _loss_and_gradient(scores, target[rows].unsqueeze(1), smoothing)
            scores = scores.to(product)
            grad_hidden[rows] = (scores @ table_low).to(hidden.dtype)
            grad_table += (scores.t() @ hidden_low).to(table.dtype)
        ctx.save_for_backward(grad_hidden, grad_table)
        return totals

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_hidden, grad_table = ctx.saved_tensors
        scale = grads[0][0].to(grad_hidden.dtype)
        return grad_hidden * scale, grad_table * scale, None, None
