"""Butterfly factors: the two ways of applying a K-matrix, on torch tensors.

A twiddle has shape (stacks, 2 * width, log2 n, n / 2, 2, 2): stack, block, log2 of the stride, pair,
output of the pair, input of the pair. Even blocks run through decreasing, odd blocks through increasing
strides (Dao et al. 2020, "Kaleidoscope", section 3; torch_butterfly orders the factors of an even block by
application instead, kserve/convert/torch_butterfly.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


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
    _check_rows(twiddle, x)
    for t in _in_order(twiddle):
        x = _apply(t, x)
    return x


def butterfly_gradients(twiddle: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of x and twiddle from that of `butterfly_multiply`, written out.

    Autograd gives the same; this is for where it cannot run, and the reference of the CUDA kernel.

    Args:
        twiddle: As for `butterfly_multiply`.
        x: (rows, stacks, n).
        grad: (rows, stacks, n), the gradient of the product.

    Returns:
        The gradients of x and of twiddle.
    """
    _check_rows(twiddle, x)
    grad_twiddle = torch.empty_like(twiddle)
    inputs = []
    for t in _in_order(twiddle):
        inputs.append(x)
        x = _apply(t, x)
    gradients = _in_order(grad_twiddle)
    steps = list(zip(_in_order(twiddle), gradients, inputs, strict=True))
    for t, into, before in reversed(steps):
        outer = torch.einsum("rsgil,rsgjl->sglij", _pairs(t, grad), _pairs(t, before))
        into.copy_(outer)
        grad = _apply(t.transpose(-1, -2), grad)
    return grad, grad_twiddle


def _check_rows(twiddle: Tensor, x: Tensor) -> None:
    stacks, _, log_n = _check_twiddle(twiddle)
    if x.shape[1:] != (stacks, 1 << log_n):
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (rows, {stacks}, {1 << log_n})")


def _in_order(twiddle: Tensor) -> Iterator[Tensor]:
    """The factors in order of application, each (stacks, groups, stride, 2, 2)."""
    stacks, blocks, log_n = _check_twiddle(twiddle)
    for block in range(blocks):
        for level in range(log_n) if block % 2 else range(log_n - 1, -1, -1):
            yield twiddle[:, block, level].view(stacks, -1, 1 << level, 2, 2)


def _pairs(t: Tensor, x: Tensor) -> Tensor:
    """x (rows, stacks, n) by the pairs of factor t: (rows, stacks, groups, 2, stride)."""
    return x.reshape(len(x), t.shape[0], t.shape[1], 2, t.shape[2])


def _apply(t: Tensor, x: Tensor) -> Tensor:
    """One factor times x (rows, stacks, n)."""
    low, high = _pairs(t, x).unbind(3)
    upper = t[..., 0, 0] * low + t[..., 0, 1] * high
    lower = t[..., 1, 0] * low + t[..., 1, 1] * high
    return torch.stack((upper, lower), dim=3).view(x.shape)


class Grid(NamedTuple):
    """How a layer is cut into squares: features that one serves, and those of the layer's output."""

    tile: int
    out_features: int

    def rows(self) -> int:
        """Squares above each other."""
        return -(-self.out_features // self.tile)

    def cols(self, in_features: int) -> int:
        """Squares beside each other."""
        return -(-in_features // self.tile)


def multiply_grid(x: Tensor, twiddle: Tensor, grid: Grid) -> Tensor:
    """Multiply by a layer's grid of K-matrices, factor by factor.

    Args:
        x: (rows, in).
        twiddle: (grid rows * grid columns, 2 * width, log2 n, n / 2, 2, 2), n at least the tile.
        grid: Square (r, c) maps part c of the input to part r of the output; parts are added over c.

    Returns:
        (rows, out_features).
    """
    cols, n = grid.cols(x.shape[1]), 2 * twiddle.shape[3]
    y = butterfly_multiply(twiddle, _cut(x, grid.tile, cols, n).repeat(1, grid.rows(), 1))
    parts = y[..., : grid.tile].reshape(len(x), grid.rows(), cols, grid.tile)
    return parts.sum(2).flatten(1)[:, : grid.out_features].contiguous()


def grid_gradients(x: Tensor, twiddle: Tensor, grad: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """The gradients of x and twiddle from that of `multiply_grid`, grad (rows, out_features)."""
    grid = Grid(tile, grad.shape[1])
    rows, cols, n = grid.rows(), grid.cols(x.shape[1]), 2 * twiddle.shape[3]
    given = _cut(x, tile, cols, n).repeat(1, rows, 1)
    wanted = _cut(grad, tile, rows, n).repeat_interleave(cols, 1)
    grad_x, grad_twiddle = butterfly_gradients(twiddle, given, wanted)
    parts = grad_x[..., :tile].reshape(len(x), rows, cols, tile)
    return parts.sum(1).flatten(1)[:, : x.shape[1]].contiguous(), grad_twiddle


def _cut(x: Tensor, tile: int, parts: int, n: int) -> Tensor:
    """x (rows, features) in `parts` parts of `tile` features, each padded to n: (rows, parts, n)."""
    x = functional.pad(x, (0, parts * tile - x.shape[1]))
    return functional.pad(x.view(len(x), parts, tile), (0, n - tile))


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
    halves = (twiddle[:, 1::2], twiddle[:, 0::2].transpose(-1, -2))
    factors = torch.cat([half.reshape(-1, log_n, *twiddle.shape[3:]) for half in halves])
    increasing, decreasing = _grow_blocks(factors).to(dtype or twiddle.dtype).chunk(2)
    pairs = torch.bmm(increasing, decreasing.transpose(1, 2))
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
