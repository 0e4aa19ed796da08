"""Sentences packed one after the other: a batch is rows of tokens, without padding between sentences.

Everything that works on single tokens then works on `(rows, channels)`, and no product is spent on padding.
Only dynamic convolution and attention look at sentences, by their offsets. A few rows at the end may belong
to none: they round the number of rows up, so that the shapes of a run are few and the matrix library's plans
for them are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kserve.tokenizer import PADDING

ROUND_ROWS = 64


@dataclass(frozen=True, eq=False)
class Packing:
    """Where the sentences of a batch lie.

    Attributes:
        offsets: (sentences + 1,): sentence i has the rows offsets[i] ... offsets[i + 1] - 1.
        rows: How many there are, those beyond the last sentence included.
        device: Of the rows.
    """

    offsets: NDArray[np.int32]
    rows: int
    device: torch.device

    @classmethod
    def of_lengths(
        cls, lengths: Sequence[int] | NDArray[np.int64], device: torch.device, round_to: int = 1
    ) -> Packing:
        """Sentences of these lengths, the rows rounded up to a multiple."""
        offsets = np.zeros(len(lengths) + 1, np.int32)
        np.cumsum(lengths, out=offsets[1:])
        return cls(offsets, max(1, -(-int(offsets[-1]) // round_to)) * round_to, device)

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sentence."""
        return np.diff(self.offsets)

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """(rows,): each token's position in its sentence; 0 beyond the last one."""
        places = np.zeros(self.rows, np.int32)
        used = int(self.offsets[-1])
        places[:used] = np.arange(used, dtype=np.int32) - np.repeat(self.offsets[:-1], self.lengths)
        return places

    @cached_property
    def mask(self) -> Tensor:
        """(sentences, longest): where a padded batch has a token."""
        columns = np.arange(max(1, int(self.lengths.max(initial=0))))
        return torch.from_numpy(columns < self.lengths[:, None]).to(self.device)

    @cached_property
    def _slots(self) -> Tensor:
        """(tokens,): where each token's row lies in a padded batch, its sentences one after the other."""
        used = int(self.offsets[-1])
        starts = np.repeat(np.arange(len(self.lengths)) * self.mask.shape[1], self.lengths)
        return torch.from_numpy(starts + self.places[:used]).to(self.device)

    def pad(self, x: Tensor) -> Tensor:
        """(rows, ...) to (sentences, longest, ...), zero where there is no token."""
        slots = self._slots
        padded: Tensor = _Scatter.apply(x[: len(slots)], slots, self.mask.numel())
        return padded.view(*self.mask.shape, *x.shape[1:])

    def pack(self, padded: Tensor) -> Tensor:
        """The inverse of `pad`; rows beyond the last sentence are zero."""
        used: Tensor = _Gather.apply(padded.flatten(0, 1), self._slots)
        return functional.pad(used, (0, 0) * (used.dim() - 1) + (0, self.rows - used.shape[0]))


# No slot comes twice, so that each of the two is the other's gradient. Torch, which cannot know, would add up
# row by row; and indexing by a mask would have a device wait for the number of its rows.
class _Scatter(torch.autograd.Function):
    """Rows (tokens, ...) into their slots of `count`, the others zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(slots)
        return x.new_zeros(count, *x.shape[1:]).index_copy_(0, slots, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, *ctx.saved_tensors), None, None


class _Gather(torch.autograd.Function):
    """The rows of x (count, ...) in the slots."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.count = x.shape[0]
        return x.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (slots,) = ctx.saved_tensors
        grad = grads[0]
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, slots, grad), None


def pack_ids(padded: Tensor) -> tuple[Tensor, Packing]:
    """Ids (sentences, time), padded at the end, to (rows,) and where the sentences lie."""
    real = padded != PADDING
    packing = Packing.of_lengths(real.sum(1).tolist(), padded.device)
    return packing.pack(padded[:, : packing.mask.shape[1]]), packing
