"""Operations of the training step between the matrix products, on packed rows.

Each has two forms that compute the same: the extension's kernels (`cpu_ops`) for float32 and bfloat16 tensors
on the CPU, and plain torch (`torch_ops`) for every other type and device. The tensor decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kserve.kmatrix import cpu
from kserve.train import cpu_ops, torch_ops
from kserve.train.packing import Packing


@dataclass(frozen=True)
class Window:
    """A dynamic convolution's heads, taps a head, and how many of them lie before the position itself."""

    heads: int
    taps: int
    left: int


def add_norm(
    x: Tensor, y: Tensor | None, dropout: float, norm: nn.LayerNorm, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The residual stream's step: x + dropout(y), and its layer norm.

    Args:
        x: (rows, d).
        y: (rows, d) of `dtype`, or None: nothing is added.
        dropout: Probability of a zero.
        norm: Gain, bias and epsilon.
        dtype: Of the second result.
    """
    if cpu.usable(x) and x.dtype == torch.float32 and dtype in (torch.float32, torch.bfloat16):
        return cpu_ops.add_norm(x, y, dropout, norm, dtype)
    return torch_ops.add_norm(x, y, dropout, norm, dtype)


def glu(u: Tensor) -> Tensor:
    """u[:, :d] * sigmoid(u[:, d:]) of u (rows, 2 d)."""
    return cpu_ops.glu(u) if cpu.usable(u) else torch_ops.glu(u)


def relu_(x: Tensor) -> Tensor:
    """max(x, 0), in place."""
    return cpu_ops.relu_(x) if cpu.usable(x) else torch_ops.relu_(x)


def convolve(x: Tensor, scores: Tensor, packing: Packing, window: Window) -> Tensor:
    """Dynamic convolution within each sentence.

    Position t of a head becomes the sum over taps j of share[t, j] * x[t + j - left], the shares being the
    softmax of the scores; positions outside the sentence are zero, but keep their share.

    Args:
        x: (rows, d).
        scores: (rows, heads * taps).
        packing: The sentences.
        window: Heads, taps, and how many lie to the left.
    """
    form = cpu_ops.convolve if cpu.usable(x) else torch_ops.convolve
    return form(x, scores, packing, (window.heads, window.taps, window.left))


def attend(
    query: Tensor, keys_values: tuple[Tensor, Tensor], target: Packing, source: Packing, heads: int
) -> Tensor:
    """Attention of each target sentence (target rows, d) over its source sentence (source rows, d)."""
    form = cpu_ops.attend if cpu.usable(query) else torch_ops.attend
    return form(query, keys_values, (target, source), heads)


def embed(table: Tensor, ids: Tensor, positions: Tensor, places: Tensor, dropout: float) -> Tensor:
    """dropout(table[ids] * sqrt(d) + positions[places]), (rows, d); ids and places are int32."""
    form = cpu_ops.embed if cpu.usable(table) and table.dtype == torch.float32 else torch_ops.embed
    return form((table, positions), (ids, places), dropout)


class SmoothedCrossEntropy(torch.autograd.Function):
    """Output projection, log-softmax and label-smoothed cross-entropy, in chunks of rows.

    The gradient is formed in the forward pass, so that the (rows, vocabulary) scores never exist as a whole.
    Loss of a row: (1 - smoothing) * nll(target) + smoothing * mean over the vocabulary of nll.
    """

    CHUNK = 2048
    DEVICE_CHUNK = 16384  # of a device beside the processor: it has the memory, and each call costs it

    @staticmethod
    def forward(  # torch gives the signature: a sixth parameter is its context
        ctx: object, hidden: Tensor, table: Tensor, target: Tensor, smoothing: float, weight: float
    ) -> tuple[Tensor, Tensor]:
        """Loss and totals of hidden (rows, d), table (vocabulary, d) and target (rows,), int32, -1 for none.

        Returns:
            `weight` times the summed smoothed loss; and, without gradient, the sums of smoothed loss and
            negative log-likelihood, (2,) in float64.
        """
        low = table.to(hidden.dtype)
        grad_hidden, grad_table = torch.empty_like(hidden), torch.empty_like(table)
        totals = torch.zeros(2, dtype=torch.float64, device=hidden.device)
        on_cpu = cpu.usable(hidden)
        score = cpu_ops.loss_and_gradient if on_cpu else torch_ops.loss_and_gradient
        chunk = SmoothedCrossEntropy.DEVICE_CHUNK if hidden.is_cuda else SmoothedCrossEntropy.CHUNK
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            scores = hidden[rows] @ low.t()
            totals += score(scores, target[rows], smoothing, weight)
            torch.mm(scores, low, out=grad_hidden[rows])
            part = cpu.multiply_transposed(scores, hidden[rows]) if on_cpu else scores.t() @ hidden[rows]
            grad_table = grad_table.copy_(part) if start == 0 else grad_table.add_(part)
        ctx.save_for_backward(grad_hidden, grad_table)  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(totals)  # type: ignore[attr-defined]
        return (totals[0] * weight).float(), totals

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_table = ctx.saved_tensors  # type: ignore[attr-defined]
        # To look at the factor would have a device wait.
        if grads[0].is_cuda or float(grads[0]) != 1.0:
            scale = grads[0].to(grad_hidden.dtype)
            grad_hidden, grad_table = grad_hidden * scale, grad_table * grads[0]
        return grad_hidden, grad_table, None, None, None
