"""Butterfly factors: the two ways of applying a K-matrix, on torch tensors.

A twiddle has shape (stacks, 2 * width, log2 n, n / 2, 2, 2): stack, block, log2 of the stride, pair,
output of the pair, input of the pair. Even blocks run through decreasing, odd blocks through increasing
strides (Dao et al. 2020, "Kaleidoscope", section 3; the layout is that of torch_butterfly).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def _check_twiddle(twiddle: Tensor) -> tuple[int, int, int]:
    """Return (stacks, blocks, log2 n), or raise ValueError naming the shape that was given."""
    if (
        twiddle.dim() != 6
        or twiddle.shape[2] < 1
        or twiddle.shape[3] * 2 != 1 << twiddle.shape[2]
        or twiddle.shape[1] % 2
    ):
        raise ValueError(
            f"twiddle has shape {tuple(twiddle.shape)}; expected (stacks, 2 * width, log2 n, n / 2, 2, 2)"
        )
    return twiddle.shape[0], twiddle.shape[1], twiddle.shape[2]


def butterfly_multiply(twiddle: Tensor, x: Tensor) -> Tensor:
    """Multiply by each factor in turn: few rows, O(n log n) a row.

    Args:
        twiddle: (stacks, 2 * width, log2 n, n / 2, 2, 2).
        x: (rows, stacks, n).

    Returns:
        (rows, stacks, n), row by row and stack by stack the K-matrix times x.

    Raises:
        ValueError: the shapes do not fit.
    """
    stacks, blocks, log_n = _check_twiddle(twiddle)
    n = 1 << log_n
    if x.shape[1:] != (stacks, n):
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (rows, {stacks}, {n})")
    rows = x.shape[0]
    for block in range(blocks):
        order = range(log_n) if block % 2 else range(log_n - 1, -1, -1)
        for level in order:
            stride = 1 << level
            t = twiddle[:, block, level].view(stacks, n // (2 * stride), stride, 2, 2)
            pairs = x.reshape(rows, stacks, n // (2 * stride), 2, stride)
            low, high = pairs[:, :, :, 0], pairs[:, :, :, 1]
            upper = t[..., 0, 0] * low + t[..., 0, 1] * high
            lower = t[..., 1, 0] * low + t[..., 1, 1] * high
            x = torch.stack((upper, lower), dim=3).view(rows, stacks, n)
    return x


def _grow_blocks(factors: Tensor) -> Tensor:
    """Dense product of the factors of strides 1, 2, ... n/2, smallest applied first.

    After k factors the product is block-diagonal with blocks of 2^k, so each factor doubles the blocks by
    an element-wise product: about 2 n^2 multiplications in all.

    Args:
        factors: (stacks, log2 n, n / 2, 2, 2).

    Returns:
        (stacks, n, n).
    """
    stacks, log_n = factors.shape[0], factors.shape[1]
    n = 1 << log_n
    blocks = factors.new_ones(stacks, n, 1, 1)
    for level in range(log_n):
        size = 1 << level
        groups = n // (2 * size)
        # t: (stacks, group, output half, row, input half, 1) scales the rows of the two smaller blocks.
        t = factors[:, level].view(stacks, groups, size, 2, 2).permute(0, 1, 3, 2, 4).unsqueeze(-1)
        small = blocks.view(stacks, groups, 1, 2, size, size).transpose(3, 4)
        blocks = (t * small).reshape(stacks, groups, 2 * size, 2 * size)
    return blocks.view(stacks, n, n)


def materialize(twiddle: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Build the dense matrices: many rows, then one matrix product serves them all.

    Args:
        twiddle: (stacks, 2 * width, log2 n, n / 2, 2, 2).
        dtype: Of the result, and of the products of butterflies; the twiddle's when absent.

    Returns:
        (stacks, n, n), so that y = M @ x.
    """
    stacks, blocks, log_n = _check_twiddle(twiddle)
    # A decreasing block is the transpose of an increasing one with transposed 2x2 blocks.
    increasing = _grow_blocks(twiddle[:, 1::2].reshape(-1, log_n, *twiddle.shape[3:]))
    decreasing = _grow_blocks(twiddle[:, 0::2].transpose(-1, -2).reshape(-1, log_n, *twiddle.shape[3:]))
    dtype = dtype or twiddle.dtype
    pairs = torch.bmm(increasing.to(dtype), decreasing.to(dtype).transpose(1, 2))
    n = 1 << log_n
    return multiply_pairs(pairs.view(stacks, blocks // 2, n, n).unbind(1))


def multiply_pairs(pairs: Sequence[Tensor]) -> Tensor:
    """The product (stacks, n, n) of the pairs, each (stacks, n, n), the first of which is applied first."""
    product = pairs[0]
    for pair in pairs[1:]:
        product = torch.bmm(pair, product)
    return product


def random_rotations(stacks: int, width: int, log_n: int, generator: torch.Generator | None = None) -> Tensor:
    """Twiddles whose 2x2 blocks are rotations, so that every K-matrix is orthogonal.

    Angles are uniform within an eighth of a turn either way. Then no block's diagonal is smaller than the
    rest of it, nor is it so after training, and serving may divide by it (docs/design.md, "Run-time layout").
    """
    n = 1 << log_n
    angle = (torch.rand(stacks, 2 * width, log_n, n // 2, generator=generator) - 0.5) * (torch.pi / 2)
    cos, sin = angle.cos(), angle.sin()
    return torch.stack((torch.stack((cos, -sin), -1), torch.stack((sin, cos), -1)), -2)
