"""The engine's weight layout: twiddles to words in reading order, and back to a dense matrix.

docs/design.md, "Run-time layout", is the specification; the words here (unit factor, middle factor, pass,
group, chunk) are its words. NumPy only, so that a bundle can be read, checked and compared without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kserve.unit_factors import (
    LANES,
    LEAST_DIAGONALS,
    Factor,
    Floats,
    factors_of,
    plain_factors,
    twiddle_of,
)

PASS_BITS = 3  # strides in a pass, as log2: radix 8
SMALL_BITS = 4  # a square of at most 2**4 chunks is one pass a pair
_INNER_STRIDES = (8, 4, 2, 1, 2, 4, 8)  # within a chunk; the one in the middle has a diagonal
_WORST_ERROR = 0.05  # of a packed square's products, by their norm; rounding alone makes 0.003
Words = NDArray[np.uint32]


class LayoutError(ValueError):
    """An array or a size that the run-time layout cannot hold."""


@dataclass(frozen=True)
class Pass:
    """`factors` factors in a row, done on groups of 2**bits chunks that lie 2**low chunks apart."""

    low: int
    bits: int
    factors: int


@dataclass(frozen=True)
class Grid:
    """How a layer `in -> out` is cut into squares; `stored` is the size of one stored square."""

    tile: int
    rows: int
    cols: int
    inner: int

    @property
    def stored(self) -> int:
        """A square smaller than a chunk is stored in the upper left of one of 16."""
        return max(self.inner, LANES)


def grid(in_features: int, out_features: int, expansion: int = 1) -> Grid:
    """The grid of squares of a layer: `tile` is n (at least 2: one pair), `inner` is `expansion * n`."""
    if min(in_features, out_features) < 1:
        raise LayoutError(f"layer sizes must be at least 1, got {in_features} -> {out_features}")
    if expansion < 1 or expansion & (expansion - 1):
        raise LayoutError(f"expansion must be a power of two, got {expansion}")
    tile = max(2, 1 << (min(in_features, out_features) - 1).bit_length())
    return Grid(tile, -(-out_features // tile), -(-in_features // tile), expansion * tile)


def words(inner: int, width: int) -> int:
    """Words (of two numbers) in one stored square of size `inner` (a power of two, at least 16)."""
    levels = _levels(inner, width)
    joined = width - 1 if inner > LANES else 0
    return (2 * width * levels - joined) * inner // 2


def passes(inner: int, width: int) -> list[Pass]:
    """The passes over one stored square, in order of application."""
    bits = _levels(inner, width) - 4
    joined = 1 if bits else 0
    within = len(_INNER_STRIDES)
    if bits <= SMALL_BITS:
        later = Pass(0, bits, 2 * bits - joined + within)
        return [Pass(0, bits, 2 * bits + within), *[later] * (width - 1)]
    middle = Pass(0, PASS_BITS, 2 * PASS_BITS + within)
    cuts = [*range(bits, PASS_BITS, -PASS_BITS), PASS_BITS]  # strides from the largest down
    outer = [Pass(low, high - low, high - low) for high, low in pairwise(cuts)]
    top, rest = outer[0], outer[1:]
    turn = Pass(top.low, top.bits, 2 * top.bits - 1)
    between = [middle, *reversed(rest), turn, *rest]
    return [*outer, *between * (width - 1), middle, *reversed(outer)]


def pack(twiddle: NDArray[np.floating], inner: int) -> Words:
    """One square `(2 * width, log2 m, m / 2, 2, 2)` as `words(inner, width)` words in reading order."""
    twiddle64 = _stored_twiddle(twiddle, inner)
    plan = passes(inner, len(twiddle64) // 2)
    error = np.inf
    for least in LEAST_DIAGONALS:
        vectors = [np.concatenate(part, 1) for part in _vectors(factors_of(twiddle64, least), plan, inner)]
        packed = to_words(np.concatenate([part.reshape(-1, LANES) for part in vectors]))
        error = _packing_error(packed, twiddle64)
        if error < _WORST_ERROR:
            break
    else:
        raise LayoutError(
            f"a square of size {inner} comes back changed by {error:.2g} of its norm, at most {_WORST_ERROR} "
            "is expected; too many of its 2x2 blocks have a diagonal of nearly zero: train it from smaller "
            "rotations"
        )
    return packed


def pack_layer(twiddle: NDArray[np.floating], rows: int, cols: int) -> Words:
    """All squares of a layer, `(rows * cols, 2 * width, log2 m, m / 2, 2, 2)` -> `(rows, cols, words)`."""
    if twiddle.ndim != 6 or len(twiddle) != rows * cols:
        raise LayoutError(
            f"a {rows}x{cols} grid's twiddle must have {rows * cols} stacks, got {twiddle.shape}"
        )
    inner = max(LANES, 1 << twiddle.shape[2])
    return np.stack([pack(square, inner) for square in twiddle]).reshape(rows, cols, -1)


def scale_inputs(twiddle: Floats, cut: Grid, gain: Floats) -> Floats:
    """The layer's twiddle, its inputs multiplied by gain (in): the first factor of every square takes it."""
    stacks = len(twiddle)
    result = twiddle.astype(np.float64, copy=True)
    size = 2 * twiddle.shape[3]
    padded = np.ones((cut.cols, size))
    for col in range(cut.cols):
        part = gain[col * cut.tile : (col + 1) * cut.tile]
        padded[col, : len(part)] = part
    # (columns, pair, half) of the top stride.
    by_half = padded.reshape(cut.cols, 2, size // 2).transpose(0, 2, 1)
    result[:, 0, -1] *= np.tile(by_half, (stacks // cut.cols, 1, 1))[:, :, None, :]
    return result


def multiply_layer(twiddle: Floats, cut: Grid, x: Floats) -> Floats:
    """The layer's squares times x (in), without cutting the outputs: (rows * tile,)."""
    size = 2 * twiddle.shape[3]
    result = np.zeros((cut.rows, cut.tile))
    for number, square in enumerate(twiddle):
        row, col = divmod(number, cut.cols)
        part = np.zeros((size, 1))
        given = x[col * cut.tile : (col + 1) * cut.tile]
        part[: len(given), 0] = given
        for factor in plain_factors(square.astype(np.float64)):
            part = factor.apply(part)
        result[row] += part[: cut.tile, 0]
    return result.reshape(-1)


def unpack_dense(packed: Words, inner: int, width: int) -> Floats:
    """The matrix `(inner, inner)` that packed words stand for, in float64: `y = matrix @ x`."""
    total = words(inner, width)
    if packed.shape != (total,):
        raise LayoutError(f"a square of size {inner}, width {width} has {total} words, got {packed.shape}")
    return _dense(unpack_factors(packed, inner, width), inner)


def unpack_factors(packed: Words, inner: int, width: int) -> list[Factor]:
    """The factors that packed words stand for, in order of application."""
    vectors = from_words(packed)
    factors: list[Factor] = []
    start = 0
    for one in passes(inner, width):
        strides = _pass_strides(inner, width, len(factors), one.factors)
        groups = _groups(one, inner)
        count = sum(2 if stride == 1 else 1 for stride in strides)
        part = vectors[start : start + groups.size * count].reshape(len(groups), -1, LANES)
        start += groups.size * count
        at = 0
        for stride in strides:
            values = np.empty((2 if stride == 1 else 1, inner // LANES, LANES))
            for kind in range(len(values)):
                values[kind][_vector_chunks(groups, stride)] = part[:, at : at + groups.shape[1]]
                at += groups.shape[1]
            flat = values.reshape(len(values), -1)
            factors.append(Factor(stride, flat[-1], flat[0] if stride == 1 else None))
    return factors


def unpack_twiddle(packed: Words, sizes: tuple[int, int], width: int, expansion: int = 1) -> Floats:
    """A balanced twiddle `(rows * cols, 2 * width, log2 m, m / 2, 2, 2)` of a packed layer."""
    shape = _layer_grid(packed, sizes, width, expansion)
    squares = packed.reshape(shape.rows * shape.cols, -1)
    return np.stack(
        [twiddle_of(unpack_factors(square, shape.stored, width), shape.inner) for square in squares]
    )


def _layer_grid(packed: Words, sizes: tuple[int, int], width: int, expansion: int) -> Grid:
    shape = grid(*sizes, expansion)
    if packed.shape != (shape.rows, shape.cols, words(shape.stored, width)):
        raise LayoutError(f"a packed layer {sizes[0]} -> {sizes[1]} cannot be {packed.shape}")
    return shape


def unpack_layer(packed: Words, sizes: tuple[int, int], width: int, expansion: int = 1) -> Floats:
    """The dense weight `(out, in)` of a packed layer `(rows, cols, words)`; `sizes` is `(in, out)`."""
    shape = _layer_grid(packed, sizes, width, expansion)
    in_features, out_features = sizes
    n = shape.tile
    weight = np.zeros((shape.rows * n, shape.cols * n))
    for row in range(shape.rows):
        for col in range(shape.cols):
            square = unpack_dense(packed[row, col], shape.stored, width)
            weight[row * n : (row + 1) * n, col * n : (col + 1) * n] = square[:n, :n]
    return weight[:out_features, :in_features]


def to_words(vectors: Floats) -> Words:
    """Vectors (2 * k, 16), two by two in words (k * 16).

    The first of two is rounded to bfloat16 and stands in the lower half. The second is the whole word taken
    as a float32: with the lower half given, the upper half is the one that comes nearest.
    """
    bits = vectors.astype(np.float32).view(np.uint32).reshape(-1, 2, LANES).astype(np.int64)
    low = (bits[:, 0] + 0x7FFF + (bits[:, 0] >> 16 & 1)) >> 16
    low = np.where(low & 0x7F80, low, 0)
    sign, magnitude = bits[:, 1] & 0x80000000, bits[:, 1] & 0x7FFFFFFF
    high = np.maximum((magnitude - low + 0x8000) >> 16, 0)
    # A number below the normal ones (0 has its neighbour's bits) would make multiplications slow.
    high = np.where((high < 0x80) & (low != 0), 0x80, high) | sign >> 16
    result = np.ascontiguousarray(high << 16 | low, dtype=np.uint32).reshape(-1)
    if not are_finite(result):
        raise LayoutError("a weight is NaN, infinite, or too large for 16 bits; train it smaller")
    return result


def from_words(packed: Words) -> Floats:
    """The vectors (2 * k, 16) that words (k * 16) hold, in float64."""
    pairs = packed.reshape(-1, LANES)
    both = np.stack([pairs << np.uint32(16), pairs], axis=1)
    return both.view(np.float32).reshape(-1, LANES).astype(np.float64)


def are_finite(packed: Words) -> bool:
    """Whether every number that the words hold is finite."""
    exponent = np.uint32(0x7F80)
    low, high = packed & exponent, packed >> np.uint32(16) & exponent
    return not bool(((low == exponent) | (high == exponent)).any())


def _levels(inner: int, width: int) -> int:
    if inner < LANES or inner & (inner - 1):
        raise LayoutError(f"a stored square's size must be a power of two, at least {LANES}, got {inner}")
    if width < 1:
        raise LayoutError(f"width must be at least 1, got {width}")
    return inner.bit_length() - 1


def _packing_error(packed: Words, twiddle: Floats) -> float:
    """By how much of their length the packed square changes products, over a few random vectors."""
    inner, width = 2 * twiddle.shape[2], len(twiddle) // 2
    x = np.random.default_rng(0).standard_normal((inner, 8))
    want, got = x, x
    for factor in plain_factors(twiddle):
        want = factor.apply(want)
    for factor in unpack_factors(packed, inner, width):
        got = factor.apply(got)
    return float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-20))


def _stored_twiddle(twiddle: NDArray[np.floating], inner: int) -> Floats:
    """The twiddle in float64, padded with identities to 16; refuses a shape that is not stored in `inner`."""
    levels = twiddle.shape[1] if twiddle.ndim == 5 else -1
    size = 1 << max(levels, 0)
    expected = (2 * max(len(twiddle) // 2, 1), levels, size // 2, 2, 2)
    if levels < 1 or twiddle.shape != expected or inner != max(size, LANES):
        raise LayoutError(
            f"twiddle must be (2 * width, log2 m, m/2, 2, 2), max(m, {LANES}) = {inner}; got {twiddle.shape}"
        )
    if not np.isfinite(twiddle).all():
        raise LayoutError("a twiddle is NaN or infinite; export an earlier checkpoint")
    full = np.zeros((len(twiddle), inner.bit_length() - 1, inner // 2, 2, 2))
    full[..., 0, 0] = full[..., 1, 1] = 1
    full[:, :levels, : size // 2] = twiddle
    return full


def _dense(factors: Sequence[Factor], size: int) -> Floats:
    result = np.eye(size)
    for factor in factors:
        result = factor.apply(result)
    return result


def _groups(one: Pass, inner: int) -> NDArray[np.intp]:
    """Chunks touched together by a pass, (groups, 2**bits), groups by their first chunk."""
    step = 1 << one.low
    touched = (step << one.bits) - step
    base = np.array([chunk for chunk in range(inner // LANES) if not chunk & touched], dtype=np.intp)
    return base[:, None] + step * np.arange(1 << one.bits, dtype=np.intp)


def _vector_chunks(groups: NDArray[np.intp], stride: int) -> NDArray[np.intp]:
    """The chunk of each weight vector of a factor, by group: pair by pair, or one after the other."""
    if stride < LANES:
        return groups
    step = groups[0, 1] - groups[0, 0]
    distance = stride // LANES // step
    low = np.array([j for j in range(groups.shape[1]) if not j & distance], dtype=np.intp)
    return groups[:, np.stack([low, low + distance], axis=1).reshape(-1)]


def _vectors(factors: Sequence[Factor], plan: Sequence[Pass], inner: int) -> list[list[Floats]]:
    """For every pass the weight vectors of its factors, each (groups, vectors, 16)."""
    result, start = [], 0
    for one in plan:
        groups = _groups(one, inner)
        part = []
        for factor in factors[start : start + one.factors]:
            chunks = _vector_chunks(groups, factor.stride)
            values = [factor.partner] if factor.diagonal is None else [factor.diagonal, factor.partner]
            part += [value.reshape(-1, LANES)[chunks] for value in values]
        start += one.factors
        result.append(part)
    return result


def _pass_strides(inner: int, width: int, first: int, count: int) -> list[int]:
    """Strides of factors first ... first + count - 1 in order of application."""
    levels = inner.bit_length() - 1
    falling = [1 << k for k in range(levels - 1, 0, -1)]
    later = falling[1:] if inner > LANES else falling
    rising = falling[::-1]
    sequence = [*falling, 1, *rising]
    for _ in range(width - 1):
        sequence += [*later, 1, *rising]
    return sequence[first : first + count]
