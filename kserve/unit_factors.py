"""A K-matrix's factors, of 2x2 blocks or with all diagonals pushed into one factor a pair of blocks.

A factor of unit diagonal takes one multiplication a number instead of two. docs/design.md, "Run-time layout",
is the specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 16  # numbers of a chunk
# A block whose diagonal is smaller than this share of it is given such a diagonal: about what rounding
# changes. The larger ones are for squares with so many such blocks in a row that their product would leave
# the range of floats.
LEAST_DIAGONALS = (2.0**-10, 2.0**-8, 2.0**-7)
Floats = NDArray[np.float64]
# Balancing stops when no scale changes by more than this, or after so many rounds: blocks with zeros may have
# no balance, only come nearer to it.
_BALANCED = 1.001
_ROUNDS = 500


@dataclass(frozen=True)
class Factor:
    """One factor: y[i] = diagonal[i] * x[i] + partner[i] * x[i ^ stride]; no diagonal stands for ones."""

    stride: int
    partner: Floats
    diagonal: Floats | None = None

    @property
    def vectors(self) -> int:
        """Weight vectors of a chunk."""
        return 1 if self.diagonal is None else 2

    def apply(self, x: Floats) -> Floats:
        """The product with x (size, columns)."""
        own = x if self.diagonal is None else self.diagonal[:, None] * x
        result: Floats = own + self.partner[:, None] * x[np.arange(len(x)) ^ self.stride]
        return result


def factors_of(twiddle: Floats, least: float = LEAST_DIAGONALS[0]) -> list[Factor]:
    """The factors in order of application, all but the middle ones of unit diagonal.

    The diagonals are pushed through the product: those of falling strides towards the middle behind them,
    those of rising strides towards the middle before them.

    Args:
        twiddle: (2 * width, log2 m, m / 2, 2, 2), m at least 16.
        least: A block whose diagonal is a smaller share of it is given such a diagonal.
    """
    blocks, levels = twiddle.shape[:2]
    size = 1 << levels
    # Between middles: (stride, blocks by index of their lower number).
    runs: list[list[tuple[int, Floats]]] = []
    middles: list[Floats] = []
    for pair in range(blocks // 2):
        falling = [(1 << k, twiddle[2 * pair, k]) for k in range(levels - 1, 0, -1)]
        rising = [(1 << k, twiddle[2 * pair + 1, k]) for k in range(1, levels)]
        middles.append(twiddle[2 * pair + 1, 0] @ twiddle[2 * pair, 0])
        if runs and size > LANES:
            stride, last = runs[-1].pop()
            falling = [(stride, falling[0][1] @ last), *falling[1:]]
            runs[-1] += falling
        elif runs:
            runs[-1] += falling
        else:
            runs.append(falling)
        runs.append(rising)
    middle = [_factor(1, blocks) for blocks in middles]
    return _unit_factors([[_factor(*one) for one in run] for run in runs], middle, least)


def twiddle_of(factors: Sequence[Factor], size: int) -> Floats:
    """The inverse of `factors_of`: a twiddle (2 * width, log2 size, size / 2, 2, 2) of the same product.

    A product does not tell how its factors shared out their sizes. The twiddle has them balanced, as
    rotations are: steps of training are made for that. Where two factors became one, one of the twiddle's
    two is the identity but for its scale.

    Args:
        factors: In order of application, as `factors_of` gives them.
        size: Of the square; what a smaller one was padded with, up to 16, is left out.
    """
    levels = size.bit_length() - 1
    middles = sum(factor.diagonal is not None for factor in factors)
    twiddle = np.zeros((2 * middles, levels, size // 2, 2, 2))
    twiddle[..., 0, 0] = twiddle[..., 1, 1] = 1
    passed, stride = 0, size  # middles passed, stride before
    for factor in factors:
        if factor.stride >= size:
            continue
        if factor.diagonal is not None:
            block, passed = 2 * passed + 1, passed + 1
        elif passed > 0 and factor.stride > stride:
            block = 2 * passed - 1
        else:
            block = 2 * passed
        twiddle[block, factor.stride.bit_length() - 1] = _blocks(factor, size)
        stride = factor.stride
    for place, factor in zip(_order(twiddle), _balanced(plain_factors(twiddle)), strict=True):
        twiddle[place] = _blocks(factor, size)
    return twiddle


def plain_factors(twiddle: Floats) -> list[Factor]:
    """The factors of a twiddle as they are, each with its diagonal."""
    return [_factor(1 << level, twiddle[block, level]) for block, level in _order(twiddle)]


def _order(twiddle: Floats) -> list[tuple[int, int]]:
    """Block and level of each factor of a twiddle, in order of application."""
    blocks, levels = twiddle.shape[:2]
    return [
        (block, level if block % 2 else levels - 1 - level)
        for block in range(blocks)
        for level in range(levels)
    ]


def _factor(stride: int, blocks: Floats) -> Factor:
    """2x2 blocks (size / 2, 2, 2), pairs in ascending order, as a factor with its diagonal."""
    low, high = _ends(2 * len(blocks), stride)
    diagonal, partner = np.empty(2 * len(blocks)), np.empty(2 * len(blocks))
    diagonal[low], partner[low] = blocks[:, 0, 0], blocks[:, 0, 1]
    diagonal[high], partner[high] = blocks[:, 1, 1], blocks[:, 1, 0]
    return Factor(stride, partner, diagonal)


def _blocks(factor: Factor, size: int) -> Floats:
    """The inverse of `_factor`, of the pairs among the first `size` numbers."""
    low, high = _ends(size, factor.stride)
    diagonal = np.ones(size) if factor.diagonal is None else factor.diagonal
    ends = [diagonal[low], factor.partner[low], factor.partner[high], diagonal[high]]
    return np.stack(ends, axis=-1).reshape(-1, 2, 2)


def _balanced(factors: list[Factor]) -> list[Factor]:
    """Factors of the same product, each number between two of them as large on its way in as on its way out.

    A row of one factor and the column of the next that takes it are scaled until their norms are equal, which
    comes to the factors of the least sum of squares.
    """
    strides = np.array([[factor.stride] for factor in factors])
    diagonal = np.stack([factor.diagonal for factor in factors if factor.diagonal is not None])
    partner = np.stack([factor.partner for factor in factors])
    index = np.arange(partner.shape[1]) ^ strides
    for _ in range(_ROUNDS):
        largest = 1.0
        for first in (0, 1):  # every other place between factors, so that they do not touch each other
            before, after = slice(first, -1, 2), slice(first + 1, None, 2)
            rows = np.hypot(diagonal[before], partner[before])
            columns = np.hypot(diagonal[after], np.take_along_axis(partner[after], index[after], 1))
            # What is zero on either side is lost, whatever its scale.
            used = (rows > 0) & (columns > 0)
            by = np.sqrt(np.where(used, columns, 1) / np.where(used, rows, 1))
            diagonal[before] *= by
            partner[before] *= by
            diagonal[after] /= by
            partner[after] /= np.take_along_axis(by, index[after], 1)
            largest = max(largest, by.max(initial=1), 1 / by.min(initial=1))
        if largest < _BALANCED:
            break
    return [
        Factor(factor.stride, ours, theirs)
        for factor, ours, theirs in zip(factors, partner, diagonal, strict=True)
    ]


def _ends(size: int, stride: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Lower and upper index of every pair of a stride, pairs in ascending order of the lower one."""
    low = np.array([i for i in range(size) if not i & stride], dtype=np.intp)
    return low, low + stride


def _with_diagonal(factor: Factor, least: float) -> Floats:
    """The diagonal of a factor, no number of it nearly zero beside the rest of its block."""
    assert factor.diagonal is not None
    index = np.arange(len(factor.partner)) ^ factor.stride
    sizes = np.maximum(np.abs(factor.diagonal), np.abs(factor.partner))
    smallest = least * np.maximum(np.maximum(sizes, sizes[index]), 1e-30)
    small = np.abs(factor.diagonal) < smallest
    return np.where(small, np.copysign(smallest, factor.diagonal), factor.diagonal)


def _unit_factors(runs: list[list[Factor]], middles: list[Factor], least: float) -> list[Factor]:
    """Push the diagonals of the runs between (and around) the middles into these."""
    pushed = []
    for number, run in enumerate(runs):
        backward = 0 if number == 0 else _count_backward(run)
        before, left = _push_back(run[:backward], least)
        ahead, right = _push_ahead(run[backward:], least)
        pushed.append(before + ahead)
        if left is not None:
            middles[number - 1] = _scale_rows(middles[number - 1], left)
        if right is not None:
            middles[number] = _scale_columns(middles[number], right)
    result = list(pushed[0])
    for centre, run_after in zip(middles, pushed[1:], strict=True):
        result += [centre, *run_after]
    return result


def _push_back(run: list[Factor], least: float) -> tuple[list[Factor], Floats | None]:
    """Unit factors, and the diagonal that stands before them."""
    unit: list[Factor] = []
    scaled = None
    for factor in reversed(run):
        own = _with_diagonal(factor, least)
        after = np.ones_like(own) if scaled is None else scaled
        scaled = after * own
        index = np.arange(len(own)) ^ factor.stride
        unit.append(Factor(factor.stride, after * factor.partner / scaled[index]))
    return unit[::-1], scaled


def _push_ahead(run: list[Factor], least: float) -> tuple[list[Factor], Floats | None]:
    """Unit factors, and the diagonal that stands behind them."""
    unit: list[Factor] = []
    scaled = None
    for factor in run:
        own = _with_diagonal(factor, least)
        before = np.ones_like(own) if scaled is None else scaled
        scaled = before * own
        index = np.arange(len(own)) ^ factor.stride
        unit.append(Factor(factor.stride, factor.partner * before[index] / scaled))
    return unit, scaled


def _count_backward(run: list[Factor]) -> int:
    """Factors of a run whose diagonals go to the middle before it: those of rising strides."""
    strides = [factor.stride for factor in run]
    return next((i for i in range(1, len(strides)) if strides[i] <= strides[i - 1]), len(strides))


def _scale_rows(factor: Factor, by: Floats) -> Factor:
    assert factor.diagonal is not None
    return Factor(factor.stride, by * factor.partner, by * factor.diagonal)


def _scale_columns(factor: Factor, by: Floats) -> Factor:
    assert factor.diagonal is not None
    index = np.arange(len(by)) ^ factor.stride
    return Factor(factor.stride, factor.partner * by[index], factor.diagonal * by)
