"""The engine's weight layout: twiddles to halves in reading order, and back to a dense matrix.

docs/design.md, "Run-time layout", is the specification; the words here (stage, pass, joined factor, block,
chunk) are its words. NumPy only, so that a bundle can be read, checked and compared without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 16
MAX_FACTORS_PER_PASS = 3  # radix 8
_INNER_FACTORS = 4  # strides 1, 2, 4, 8 live inside one chunk of 16 lanes
Halves = NDArray[np.float16]
Floats = NDArray[np.float64]


class LayoutError(ValueError):
    """An array or a size that the run-time layout cannot hold."""


@dataclass(frozen=True)
class Factor:
    """One outer factor: its stride in chunks, and the twiddle blocks multiplied into it, first one first."""

    stride: int
    blocks: tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """Up to three outer factors of neighbouring strides, done on `2 ** len(factors)` chunks in registers."""

    factors: tuple[Factor, ...]

    @property
    def strides(self) -> tuple[int, ...]:
        """Chunk strides in order of application."""
        return tuple(factor.stride for factor in self.factors)


@dataclass(frozen=True)
class Blocks:
    """The 16x16 blocks around one middle: inner factors of twiddle blocks `2 * pair` and `2 * pair + 1`."""

    pair: int


Stage = Pass | Blocks


@dataclass(frozen=True)
class Grid:
    """How a layer `in -> out` is cut into squares; `stored` is the size of one stored square."""

    tile: int
    rows: int
    cols: int
    inner: int

    @property
    def stored(self) -> int:
        """A square smaller than a chunk is stored in the upper left of a 16x16 block."""
        return max(self.inner, LANES)


def grid(in_features: int, out_features: int, expansion: int = 1) -> Grid:
    """The grid of squares of a layer: `tile` is n (at least 2: one pair), `inner` is `expansion * n`."""
    if min(in_features, out_features) < 1:
        raise LayoutError(f"layer sizes must be at least 1, got {in_features} -> {out_features}")
    if expansion < 1 or expansion & (expansion - 1):
        raise LayoutError(f"expansion must be a power of two, got {expansion}")
    tile = max(2, 1 << (min(in_features, out_features) - 1).bit_length())
    return Grid(tile, -(-out_features // tile), -(-in_features // tile), expansion * tile)


def numbers(inner: int, width: int) -> int:
    """Half-precision numbers in one stored square of size `inner` (a power of two, at least 16)."""
    chunks, outer = _chunks(inner, width)
    if outer == 0:
        return LANES * LANES
    outer_factors = width * 2 * outer - (width - 1)
    return outer_factors * 2 * inner + width * chunks * LANES * LANES


def stages(inner: int, width: int) -> list[Stage]:
    """The stages of one stored square in order of application; one `Blocks(0)` when there is one chunk."""
    chunks, outer = _chunks(inner, width)
    if outer == 0:
        return [Blocks(0)]
    rising = [1 << bit for bit in range(outer)]
    result: list[Stage] = list(_passes([Factor(stride, (0,)) for stride in reversed(rising)]))
    for pair in range(width):
        result.append(Blocks(pair))
        up = [Factor(stride, (2 * pair + 1,)) for stride in rising]
        if pair == width - 1:
            result += _passes(up)
            break
        joined = Factor(chunks // 2, (2 * pair + 1, 2 * pair + 2))
        down = [Factor(stride, (2 * pair + 2,)) for stride in reversed(rising[:-1])]
        result += _passes([*up[:-1], joined]) + _passes(down)
    return result


def group_chunks(strides: tuple[int, ...], chunks: int) -> NDArray[np.intp]:
    """Chunks touched together by a pass, `(groups, 2 ** len(strides))`: row g is `base_g + j * step`."""
    step, last = min(strides), max(strides)
    touched = 2 * last - step  # the bits step, 2 * step ... last
    base = np.array([chunk for chunk in range(chunks) if not chunk & touched], dtype=np.intp)
    return base[:, None] + step * np.arange(1 << len(strides), dtype=np.intp)


def pack(twiddle: NDArray[np.floating], inner: int) -> Halves:
    """One square `(2 * width, log2 m, m / 2, 2, 2)` as `numbers(inner, width)` halves in reading order."""
    twiddle64, size = _checked_twiddle(twiddle, inner)
    width = len(twiddle64) // 2
    if size <= LANES:
        block = np.zeros((LANES, LANES))
        block[:size, :size] = _square_matrix(twiddle64, size)
        return to_half(block.T.reshape(-1))
    parts = [_stage_numbers(twiddle64, stage).reshape(-1) for stage in stages(inner, width)]
    return to_half(np.concatenate(parts))


def pack_layer(twiddle: NDArray[np.floating], rows: int, cols: int) -> Halves:
    """All squares of a layer, `(rows * cols, 2 * width, log2 m, m / 2, 2, 2)` -> `(rows, cols, numbers)`."""
    if twiddle.ndim != 6 or len(twiddle) != rows * cols:
        raise LayoutError(
            f"a {rows}x{cols} grid's twiddle must have {rows * cols} stacks, got {twiddle.shape}"
        )
    inner = max(LANES, 1 << twiddle.shape[2])
    return np.stack([pack(square, inner) for square in twiddle]).reshape(rows, cols, -1)


def unpack_dense(packed: NDArray[np.floating], inner: int, width: int) -> Floats:
    """The matrix `(inner, inner)` that packed halves stand for, in float64: `y = matrix @ x`."""
    total = numbers(inner, width)
    if packed.shape != (total,):
        raise LayoutError(f"a square of size {inner}, width {width} has {total} numbers, got {packed.shape}")
    values = packed.astype(np.float64)
    # One column of `result` per input: the stages run on the identity, chunk by chunk.
    result = np.eye(inner).reshape(inner // LANES, LANES, inner)
    start = 0
    for stage in stages(inner, width):
        count = inner * LANES if isinstance(stage, Blocks) else len(stage.factors) * 2 * inner
        part = values[start : start + count]
        start += count
        if isinstance(stage, Blocks):
            columns = part.reshape(-1, LANES, LANES)  # (chunk, input lane, output lane)
            result = columns.transpose(0, 2, 1) @ result
        else:
            result = _run_pass(part, stage, result)
    return result.reshape(inner, inner)


def unpack_layer(
    packed: NDArray[np.floating], sizes: tuple[int, int], width: int, expansion: int = 1
) -> Floats:
    """The dense weight `(out, in)` of a packed layer `(rows, cols, numbers)`; `sizes` is `(in, out)`."""
    in_features, out_features = sizes
    shape = grid(in_features, out_features, expansion)
    if packed.shape != (shape.rows, shape.cols, numbers(shape.stored, width)):
        raise LayoutError(f"a packed layer {in_features} -> {out_features} cannot be {packed.shape}")
    n = shape.tile
    weight = np.zeros((shape.rows * n, shape.cols * n))
    for row in range(shape.rows):
        for col in range(shape.cols):
            square = unpack_dense(packed[row, col], shape.stored, width)
            weight[row * n : (row + 1) * n, col * n : (col + 1) * n] = square[:n, :n]
    return weight[:out_features, :in_features]


def pack_dense(weight: NDArray[np.floating]) -> Halves:
    """A dense weight `(out, in)` in panels of 16 outputs: `(ceil(out / 16), in, 16)`, zero padded."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise LayoutError(f"a dense weight must be (out, in), got shape {weight.shape}")
    out_features, in_features = weight.shape
    panels = -(-out_features // LANES)
    padded = np.zeros((panels * LANES, in_features))
    padded[:out_features] = weight
    return to_half(padded.reshape(panels, LANES, in_features).transpose(0, 2, 1))


def unpack_panels(panels: NDArray[np.floating], out_features: int) -> Floats:
    """The dense weight `(out, in)` of panels `(ceil(out / 16), in, 16)`, in float64."""
    if panels.ndim != 3 or panels.shape[2] != LANES or len(panels) != -(-out_features // LANES):
        raise LayoutError(f"panels of {out_features} outputs cannot be {panels.shape}")
    rows: Floats = panels.astype(np.float64).transpose(0, 2, 1).reshape(-1, panels.shape[1])
    return rows[:out_features]


def to_half(values: NDArray[np.floating]) -> Halves:
    """Values in half precision, contiguous; refuses NaN and anything beyond the half range (65 504)."""
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(values, dtype=np.float16)
    if not np.isfinite(half).all():
        worst = values[~np.isfinite(half)][0]
        raise LayoutError(
            f"weight {worst} does not fit half precision (finite, at most 65504); train it smaller"
        )
    return half


def _chunks(inner: int, width: int) -> tuple[int, int]:
    """Chunks of a stored square and how many outer strides it has."""
    if inner < LANES or inner & (inner - 1):
        raise LayoutError(f"a stored square's size must be a power of two, at least {LANES}, got {inner}")
    if width < 1:
        raise LayoutError(f"width must be at least 1, got {width}")
    chunks = inner // LANES
    return chunks, chunks.bit_length() - 1


def _passes(run: list[Factor]) -> list[Stage]:
    """A run cut into passes of at most three factors from its start."""
    return [Pass(tuple(run[i : i + MAX_FACTORS_PER_PASS])) for i in range(0, len(run), MAX_FACTORS_PER_PASS)]


def _checked_twiddle(twiddle: NDArray[np.floating], inner: int) -> tuple[Floats, int]:
    """The twiddle in float64 and its size m; refuses a shape that is not a K-matrix stored in `inner`."""
    log_size = twiddle.shape[1] if twiddle.ndim == 5 else -1
    size = 1 << max(log_size, 0)
    expected = (2 * max(len(twiddle) // 2, 1), log_size, size // 2, 2, 2)
    if log_size < 0 or twiddle.shape != expected or inner != max(size, LANES):
        raise LayoutError(
            f"twiddle must be (2 * width, log2 m, m/2, 2, 2), max(m, {LANES}) = {inner}; got {twiddle.shape}"
        )
    return twiddle.astype(np.float64), size


def _factor_pairs(twiddle: Floats, factor: Factor) -> Floats:
    """2x2 blocks of an outer factor by lower chunk, `(chunks, 16, 2, 2)`; upper chunks' rows are not set."""
    log_stride = (factor.stride * LANES).bit_length() - 1
    blocks = twiddle[factor.blocks[0], log_stride]
    for block in factor.blocks[1:]:
        blocks = twiddle[block, log_stride] @ blocks  # the later factor stands on the left
    pairs = blocks.reshape(-1, factor.stride, LANES, 2, 2)
    both = np.empty((len(pairs), 2, *pairs.shape[1:]))
    both[:, 0] = pairs
    return both.reshape(-1, LANES, 2, 2)


def _lower(radix: int, distance: int) -> NDArray[np.intp]:
    """Lower members j of the pairs (j, j + distance) among `radix` chunks, ascending."""
    return np.array([j for j in range(radix) if not j & distance], dtype=np.intp)


def _stage_numbers(twiddle: Floats, stage: Stage) -> Floats:
    """A stage in reading order; a pass is `(groups, factors, radix / 2, 4, 16)`."""
    if isinstance(stage, Blocks):
        return _block_numbers(twiddle, stage.pair)
    groups = group_chunks(stage.strides, twiddle.shape[2] * 2 // LANES)
    step = min(stage.strides)
    per_factor = []
    for factor in stage.factors:
        lower_chunks = groups[:, _lower(groups.shape[1], factor.stride // step)]
        blocks = _factor_pairs(twiddle, factor)[lower_chunks]  # (groups, pairs, 16, 2, 2)
        per_factor.append(blocks.reshape(*lower_chunks.shape, LANES, 4).swapaxes(-1, -2))
    return np.stack(per_factor, axis=1)


def _run_pass(part: Floats, stage: Pass, state: Floats) -> Floats:
    """`state` (chunks, 16, columns) after a pass whose numbers are `part`."""
    groups = group_chunks(stage.strides, len(state))
    radix = groups.shape[1]
    weights = part.reshape(len(groups), len(stage.factors), radix // 2, 4, LANES, 1)
    for index, factor in enumerate(stage.factors):
        distance = factor.stride // min(stage.strides)
        low = _lower(radix, distance)
        a, b = groups[:, low], groups[:, low + distance]  # (groups, pairs)
        t00, t01, t10, t11 = (weights[:, index, :, k] for k in range(4))
        result = np.empty_like(state)
        result[a] = t00 * state[a] + t01 * state[b]
        result[b] = t10 * state[a] + t11 * state[b]
        state = result
    return state


def _block_numbers(twiddle: Floats, pair: int) -> Floats:
    """The 16x16 blocks around one middle by columns: `(chunks, input lane, output lane)`."""
    chunks = twiddle.shape[2] * 2 // LANES
    inner = twiddle[2 * pair : 2 * pair + 2, :_INNER_FACTORS]
    by_chunk = inner.reshape(2, _INNER_FACTORS, chunks, LANES // 2, 2, 2)
    return np.stack([_square_matrix(by_chunk[:, :, chunk], LANES).T for chunk in range(chunks)])


def _square_matrix(twiddle: Floats, size: int) -> Floats:
    """The dense matrix `(size, size)` of a twiddle `(2 * width, log2 size, size / 2, 2, 2)`."""
    matrix = np.eye(size)
    for block, factors in enumerate(twiddle):
        order = range(len(factors)) if block % 2 else range(len(factors) - 1, -1, -1)
        for log_stride in order:
            stride = 1 << log_stride
            pairs = factors[log_stride].reshape(-1, stride, 2, 2)
            split = matrix.reshape(-1, 2, stride, size)
            matrix = np.einsum("gsoi,gisc->gosc", pairs, split).reshape(size, size)
    return matrix
