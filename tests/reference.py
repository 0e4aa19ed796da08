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


def stages(chunks: int, width: int) -> Iterator[list[int] | None]:
    """Runs of outer factors by their chunk strides, in order of application; None is a block stage."""
    falling = []
    stride = chunks // 2
    while stride >= 1:
        falling.append(stride)
        stride //= 2
    rising = falling[::-1]
    if chunks == 1:
        yield None
        return
    yield falling
    for _ in range(width - 1):
        yield None
        yield rising  # ends in the joined factor
        yield falling[1:]
    yield None
    yield rising


def kmatrix_square(weights: Halves, width: int, x: Floats) -> Result:
    """One square on the columns of x (inner, columns); `weights` are its numbers in run-time layout."""
    numbers = widened(weights)
    chunks = len(x) // LANES
    value = x.reshape(chunks, LANES, -1).astype(np.float64)
    magnitude = np.abs(value)
    at = 0
    for run in stages(chunks, width):
        if run is None:
            blocks = numbers[at : at + chunks * 256].reshape(chunks, LANES, LANES)
            value = np.einsum("cji,cjk->cik", blocks, value)
            magnitude = np.einsum("cji,cjk->cik", np.abs(blocks), magnitude)
            at += chunks * 256
            continue
        for start in range(0, len(run), 3):
            at = _apply_pass(run[start : start + 3], numbers, at, (value, magnitude))
    assert at == len(numbers), f"the layout has {at} numbers, the array {len(numbers)}"
    return value.reshape(x.shape), magnitude.reshape(x.shape)


def _apply_pass(strides: list[int], numbers: Floats, at: int, vectors: Result) -> int:
    """One pass on both vectors in place; returns where the next numbers start."""
    radix, step = 2 ** len(strides), min(strides)
    busy = sum(strides)
    for base in (chunk for chunk in range(len(vectors[0])) if not chunk & busy):
        for stride in strides:
            for low in (j for j in range(radix) if not j & (stride // step)):
                block = numbers[at : at + 64].reshape(2, 2, LANES, 1)
                at += 64
                pair = [base + low * step, base + low * step + stride]
                for vector, t in zip(vectors, (block, np.abs(block)), strict=True):
                    a, b = vector[pair[0]], vector[pair[1]]
                    vector[pair] = t[:, 0] * a + t[:, 1] * b
    return at


def kmatrix_layer(weights: Halves, width: int, sizes: Sizes, x: NDArray[np.float32]) -> Result:
    """A grid of squares; sizes (inputs, outputs, tile, inner), weights (grid rows, grid columns, numbers)."""
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
    """Roundings on the longest way: up to three a factor, 32 a block, one a grid part, two at the end."""
    outer = (inner // LANES).bit_length() - 1
    return width * (3 * 2 * outer + 2 * LANES) + grid_cols + 2


def dense_layer(weights: Halves, outputs: int, x: NDArray[np.float32]) -> Result:
    """Panels (ceil(out / 16), in, 16) times rows."""
    matrix = widened(weights).transpose(0, 2, 1).reshape(-1, x.shape[1])[:outputs]
    rows = x.astype(np.float64)
    return rows @ matrix.T, np.abs(rows) @ np.abs(matrix.T)


def layer_norm(x: NDArray[np.float32], gain: NDArray[np.float32], bias: NDArray[np.float32]) -> Floats:
    row = x.astype(np.float64)
    unit: Floats = (row - row.mean()) / np.sqrt(row.var() + 1e-5)
    return unit * gain + bias


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
    query: NDArray[np.float32], keys: NDArray[np.float32], values: NDArray[np.float32], heads: int
) -> tuple[Floats, Floats]:
    """y (channels) and the probabilities (heads, length)."""
    q = query.astype(np.float64).reshape(heads, -1)
    k = keys.astype(np.float64).reshape(len(keys), heads, -1)
    v = values.astype(np.float64).reshape(len(values), heads, -1)
    scores = np.einsum("hi,thi->ht", q, k) / np.sqrt(q.shape[1])
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = e / e.sum(axis=1, keepdims=True)
    return np.einsum("ht,thi->hi", probabilities, v).reshape(-1), probabilities


def vocabulary_logits(table: NDArray[np.int8], scale: NDArray[np.float32], h: NDArray[np.float32]) -> Result:
    """Logits (rows, tokens)."""
    rows, words = h.astype(np.float64), table.astype(np.float64)
    return rows @ words.T * scale, np.abs(rows) @ np.abs(words.T) * np.abs(scale)


def log_sum_exp(logits: Floats) -> Floats:
    """Over the last axis."""
    top = logits.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logits - top[..., None]).sum(axis=-1)))
