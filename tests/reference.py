"""Float64 oracles of the kernels: the plainest reading of docs/design.md.

The linear ones return `(value, magnitude)`. The magnitude is the same sum with every term made positive:
float32 may be off by the number of roundings times 2^-24 times that magnitude (Higham, "Accuracy and
Stability of Numerical Algorithms", section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Halves = NDArray[np.uint16]
Words = NDArray[np.uint32]
Result = tuple[Floats, Floats]
Sizes = tuple[int, int, int, int]

LANES = 16
UNIT_ROUNDOFF = 2.0**-24


def random_halves(generator: np.random.Generator, shape: tuple[int, ...], scale: float) -> Halves:
    """Normal numbers of this standard deviation as the bits of IEEE half."""
    return (generator.standard_normal(shape) * scale).astype(np.float16).view(np.uint16)


def random_floats(generator: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return generator.standard_normal(shape, dtype=np.float32)


def widened(halves: Halves) -> Floats:
    return halves.view(np.float16).astype(np.float64)


def word_vectors(words: Words) -> Floats:
    """(2 * k, 16) weights from words (k * 16): lower halves shifted up, then the words as they are."""
    pairs = words.reshape(-1, LANES)
    return (
        np.stack([(pairs << 16).view(np.float32), pairs.view(np.float32)], axis=1)
        .reshape(-1, LANES)
        .astype(np.float64)
    )


def random_words(generator: np.random.Generator, count: int, scale: float) -> Words:
    """`count` words whose numbers are about normal, of this standard deviation."""
    bits = (generator.standard_normal((2, count)) * scale).astype(np.float32).view(np.uint32)
    words: Words = (bits[0] >> 16) | (bits[1] & np.uint32(0xFFFF0000))
    return words


def passes(chunks: int, width: int) -> Iterator[tuple[int, int, list[int]]]:
    """Passes as (smallest stride in chunks, chunks in a group, strides of the factors in lanes)."""
    strides = [1 << bit for bit in range(chunks.bit_length() - 1)]  # in chunks, rising
    inner = [8, 4, 2, 1, 2, 4, 8]

    def lanes(of_chunks: list[int]) -> list[int]:
        return [stride * LANES for stride in of_chunks]

    if chunks <= 16:
        for pair in range(width):
            falling = strides[::-1] if pair == 0 else strides[-2::-1] if strides else []
            yield 1, chunks, lanes(falling) + inner + lanes(strides)
        return
    low, high = strides[:3], strides[3:]
    cut = [high[max(end - 3, 0) : end] for end in range(len(high), 0, -3)]  # from the largest strides down
    middle = (1, 8, lanes(low[::-1]) + inner + lanes(low))
    for part in cut:
        yield part[0], 2 ** len(part), lanes(part[::-1])
    for _ in range(width - 1):
        yield middle
        for part in reversed(cut[1:]):
            yield part[0], 2 ** len(part), lanes(part)
        yield cut[0][0], 2 ** len(cut[0]), lanes(cut[0] + cut[0][-2::-1])
        for part in cut[1:]:
            yield part[0], 2 ** len(part), lanes(part[::-1])
    yield middle
    for part in reversed(cut):
        yield part[0], 2 ** len(part), lanes(part)


def kmatrix_square(words: Words, width: int, x: Floats) -> Result:
    """One square on the columns of x (inner, columns); `words` are its weights in run-time layout."""
    weights = iter(word_vectors(words))
    chunks = len(x) // LANES
    value, magnitude = x.astype(np.float64), np.abs(x).astype(np.float64)
    for step, radix, strides in passes(chunks, width):
        for base in (chunk for chunk in range(chunks) if not chunk & (step * (radix - 1))):
            group = [base + step * j for j in range(radix)]
            for stride in strides:
                _apply_factor(group, stride, weights, (value, magnitude))
    assert next(weights, None) is None, "the layout has fewer words than the array"
    return value, magnitude


def _apply_factor(group: list[int], stride: int, weights: Iterator[Floats], vectors: Result) -> None:
    """One factor on the chunks of a group, in place."""
    order = group if stride < LANES else _pairs(group, stride // LANES)
    diagonal = [next(weights) for _ in order] if stride == 1 else [np.ones(LANES) for _ in order]
    partner = [next(weights) for _ in order]
    lanes = np.concatenate([np.arange(LANES) + chunk * LANES for chunk in order])
    own, other = np.concatenate(diagonal)[:, None], np.concatenate(partner)[:, None]
    value, magnitude = vectors
    value[lanes] = own * value[lanes] + other * value[lanes ^ stride]
    magnitude[lanes] = np.abs(own) * magnitude[lanes] + np.abs(other) * magnitude[lanes ^ stride]


def _pairs(group: list[int], distance: int) -> list[int]:
    """The chunks of a group pair by pair, the lower one of each first."""
    return [chunk for low in group if not low & distance for chunk in (low, low + distance)]


def kmatrix_layer(weights: Words, width: int, sizes: Sizes, x: NDArray[np.float32]) -> Result:
    """A grid of squares; sizes (inputs, outputs, tile, inner), weights (grid rows, grid columns, words)."""
    inputs, outputs, tile, inner = sizes
    grid_rows, grid_cols = weights.shape[:2]
    padded = np.zeros((grid_cols * tile, len(x)))
    padded[:inputs] = x.T
    value = np.zeros((grid_rows * tile, len(x)))
    magnitude = np.zeros_like(value)
    for row in range(grid_rows):
        for col in range(grid_cols):
            part = np.zeros((inner, len(x)))
            part[:tile] = padded[col * tile : (col + 1) * tile]
            square = kmatrix_square(weights[row, col], width, part)
            value[row * tile : (row + 1) * tile] += square[0][:tile]
            magnitude[row * tile : (row + 1) * tile] += square[1][:tile]
    return value[:outputs].T, magnitude[:outputs].T


def kmatrix_roundings(inner: int, width: int, grid_cols: int) -> int:
    """Roundings on the longest way: two a factor, three in a middle, one a grid part, two at the end."""
    return width * (4 * inner.bit_length() + 3) + grid_cols + 2


def dense_layer(weights: Halves, outputs: int, x: NDArray[np.float32]) -> Result:
    """Panels (ceil(out / 16), in, 16) times rows."""
    matrix = widened(weights).transpose(0, 2, 1).reshape(-1, x.shape[1])[:outputs]
    rows = x.astype(np.float64)
    return rows @ matrix.T, np.abs(rows) @ np.abs(matrix.T)


def normalised(x: NDArray[np.float32]) -> Floats:
    """Rows (..., n) of mean 0 and variance 1."""
    rows = x.astype(np.float64)
    centred = rows - rows.mean(axis=-1, keepdims=True)
    unit: Floats = centred / np.sqrt(rows.var(axis=-1, keepdims=True) + 1e-5)
    return unit


def layer_norm(x: NDArray[np.float32], gain: NDArray[np.float32], bias: NDArray[np.float32]) -> Floats:
    return normalised(x) * gain + bias


def softmax(x: NDArray[np.float32]) -> Floats:
    e = np.exp(x.astype(np.float64) - x.max())
    return np.asarray(e / e.sum())


def glu(u: NDArray[np.float32]) -> Floats:
    half = len(u) // 2
    value, gate = u[:half].astype(np.float64), u[half:].astype(np.float64)
    return np.asarray(value / (1.0 + np.exp(-gate)))


def dynconv(window: NDArray[np.float32], present: list[bool], weights: NDArray[np.float32]) -> Result:
    """window (taps, channels), weights (heads, taps)."""
    rows = window.astype(np.float64) * np.array(present)[:, None]
    spread = np.repeat(weights.astype(np.float64), window.shape[1] // len(weights), axis=0)
    return np.einsum("ct,tc->c", spread, rows), np.einsum("ct,tc->c", np.abs(spread), np.abs(rows))


def attention(
    queries: NDArray[np.float32], keys: Floats, values: Floats, heads: int
) -> tuple[Floats, Floats]:
    """y (rows, channels) and the probabilities (rows, heads, length)."""
    q = queries.astype(np.float64).reshape(len(queries), heads, -1)
    k = keys.astype(np.float64).reshape(len(keys), heads, -1)
    v = values.astype(np.float64).reshape(len(values), heads, -1)
    scores = np.einsum("rhi,thi->rht", q, k) / np.sqrt(q.shape[2])
    e = np.exp(scores - scores.max(axis=2, keepdims=True))
    probabilities = e / e.sum(axis=2, keepdims=True)
    return np.einsum("rht,thi->rhi", probabilities, v).reshape(queries.shape), probabilities


def vocabulary_logits(table: NDArray[np.int8], scale: NDArray[np.float32], h: NDArray[np.float32]) -> Result:
    """Logits (rows, tokens)."""
    rows, words = h.astype(np.float64), table.astype(np.float64)
    return rows @ words.T * scale, np.abs(rows) @ np.abs(words.T) * np.abs(scale)


def log_sum_exp(logits: Floats) -> Floats:
    """Over the last axis."""
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logits - top[..., None]).sum(axis=-1)))
