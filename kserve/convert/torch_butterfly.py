"""Weights from and to torch_butterfly's `Butterfly` layer (Dao et al., "Kaleidoscope").

Both keep twiddles as (stacks, blocks, log2 n, n / 2, 2, 2) and agree on pairs and on what is in a pair's
block. They differ in one thing: within a block torch_butterfly orders factors as they are applied, KLinear
by stride, so that the blocks of falling strides are the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kserve.convert.pickles import ConvertError
from kserve.kmatrix import KLinear
from kserve.kmatrix.layers import next_power_of_two


@dataclass(frozen=True)
class Butterfly:
    """A `Butterfly(in_size, out_size, increasing_stride=..., nblocks=...)` and its state dict."""

    in_size: int
    out_size: int
    increasing_stride: bool
    state: Mapping[str, Tensor]

    @property
    def blocks(self) -> int:
        """Its `nblocks`."""
        return self.state["twiddle"].shape[1]


def from_torch_butterfly(layer: Butterfly) -> KLinear:
    """The same layer here; an odd number of blocks, or a rising first one, is filled up with identities.

    Raises:
        ConvertError: complex weights, a twiddle of another shape, or an output below half of the input's
        size,
            whose rows torch_butterfly cuts from a square larger than any that KLinear would have.
    """
    twiddle = layer.state["twiddle"]
    n = max(2, next_power_of_two(layer.in_size))
    stacks = -(-layer.out_size // n)
    wanted = (stacks, twiddle.shape[1], n.bit_length() - 1, n // 2, 2, 2)
    if twiddle.is_complex() or tuple(twiddle.shape) != wanted:
        raise ConvertError(
            f"twiddle has shape {tuple(twiddle.shape)} of {twiddle.dtype}; a real Butterfly of "
            f"{layer.in_size} -> {layer.out_size} has {wanted}"
        )
    if next_power_of_two(layer.out_size) < n:
        raise ConvertError(
            f"a Butterfly of {layer.in_size} -> {layer.out_size} is the upper part of a square of {n}; "
            f"KLinear has squares of {next_power_of_two(layer.out_size)}: convert one of {layer.in_size} -> "
            f"{n} and take its first outputs"
        )
    identity = torch.eye(2, dtype=twiddle.dtype).expand(stacks, 1, *wanted[2:4], 2, 2)
    before = [identity] if layer.increasing_stride else []
    after = [identity] if (twiddle.shape[1] + len(before)) % 2 else []
    blocks = torch.cat([*before, _by_stride(twiddle, layer.increasing_stride), *after], dim=1)
    bias = layer.state.get("bias")
    result = KLinear(layer.in_size, layer.out_size, bias is not None, width=blocks.shape[1] // 2)
    weights = {"twiddle": blocks} | ({} if bias is None else {"bias": bias})
    result.to(twiddle.dtype).load_state_dict(weights)
    return result


def to_torch_butterfly(layer: KLinear) -> list[Butterfly]:
    """One `Butterfly` for each part of the input, whose outputs add up; the first has the bias.

    Raises:
        ConvertError: an expansion, which torch_butterfly does not have.
    """
    if layer.expansion > 1:
        raise ConvertError(f"an expansion of {layer.expansion} has no counterpart in torch_butterfly")
    squares = layer.twiddle.detach().view(layer.grid_rows, layer.grid_cols, *layer.twiddle.shape[1:])
    result = []
    for col in range(layer.grid_cols):
        state = {"twiddle": _by_stride(squares[:, col], False).contiguous()}
        if layer.bias is not None and col == 0:
            state["bias"] = layer.bias.detach().clone()
        in_size = min(layer.tile, layer.in_features - col * layer.tile)
        # Padded to the tile: torch_butterfly sizes its squares by the input alone.
        result.append(Butterfly(max(in_size, layer.tile), layer.out_features, False, state))
    return result


def _by_stride(twiddle: Tensor, rising_first: bool) -> Tensor:
    """Factors of falling blocks in the opposite order; its own inverse."""
    blocks = [
        block if (index % 2 == 0) == rising_first else block.flip(1)
        for index, block in enumerate(twiddle.unbind(1))
    ]
    return torch.stack(blocks, dim=1)
