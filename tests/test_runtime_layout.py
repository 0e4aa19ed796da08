"""The run-time layout against matrices multiplied out from the twiddle definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kserve.runtime_layout import (
    LANES,
    Blocks,
    LayoutError,
    Pass,
    grid,
    numbers,
    pack,
    pack_dense,
    pack_layer,
    stages,
    unpack_dense,
    unpack_layer,
    unpack_panels,
)

SIZES = [1 << power for power in range(11)]


def square_matrix(twiddle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The K-matrix of a twiddle `(2 * width, log2 n, n / 2, 2, 2)`, pair by pair from docs/design.md."""
    log_size = twiddle.shape[1]
    matrix = np.eye(1 << log_size)
    pair = np.arange((1 << log_size) // 2)
    for block in range(len(twiddle)):
        for bit in range(log_size) if block % 2 else reversed(range(log_size)):
            stride = 1 << bit
            low = (pair // stride) * 2 * stride + pair % stride
            t, x0, x1 = twiddle[block, bit, ..., None], matrix[low], matrix[low + stride]
            matrix[low] = t[:, 0, 0] * x0 + t[:, 0, 1] * x1
            matrix[low + stride] = t[:, 1, 0] * x0 + t[:, 1, 1] * x1
    return matrix


def random_twiddle(size: int, width: int, stacks: int | None = None) -> NDArray[np.float64]:
    """Near-orthogonal blocks, so that a long product keeps its scale."""
    generator = np.random.default_rng(size * 10 + width)
    log_size = size.bit_length() - 1
    leading = (2 * width, log_size, size // 2) if stacks is None else (stacks, 2 * width, log_size, size // 2)
    angle = generator.uniform(-np.pi, np.pi, leading)
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1)
    return rotation.reshape(*leading, 2, 2) + 0.05 * generator.standard_normal((*leading, 2, 2))


def half_bound(size: int, width: int) -> float:
    """Largest entry error that rounding to half may cause: every number moves by 2**-11 of itself.

    Rows keep a norm near 1, so each of at most `2 * width * log2(size) + 1` factors adds about 2**-11; 4 is
    room for the few rows whose norm the random part has grown.
    """
    return 4 * (2 * width * (size.bit_length() - 1) + 1) * 2.0**-11


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"n{size}")
def test_packed_square_stands_for_the_twiddle_product(size: int, width: int) -> None:
    twiddle = random_twiddle(size, width)
    inner = max(size, LANES)
    packed = pack(twiddle, inner)
    assert packed.shape == (numbers(inner, width),)
    assert packed.dtype == np.float16
    dense = unpack_dense(packed, inner, width)
    np.testing.assert_allclose(
        dense[:size, :size], square_matrix(twiddle), rtol=0, atol=half_bound(size, width)
    )
    dense[:size, :size] = 0
    assert not dense.any(), "everything outside a square smaller than a block must be zero"


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 32, 128, 256], ids=lambda size: f"n{size}")
def test_exactly_representable_twiddles_lose_nothing(size: int, width: int) -> None:
    """Signed permutations of pairs are exact in half precision, products included: no tolerance at all."""
    generator = np.random.default_rng(size)
    twiddle = np.zeros((2 * width, size.bit_length() - 1, size // 2, 2, 2))
    swap = generator.integers(0, 2, twiddle.shape[:3]).astype(bool)
    sign = generator.choice([-1.0, 1.0], (*twiddle.shape[:3], 2))
    twiddle[..., 0, 0], twiddle[..., 1, 1] = ~swap * sign[..., 0], ~swap * sign[..., 1]
    twiddle[..., 0, 1], twiddle[..., 1, 0] = swap * sign[..., 0], swap * sign[..., 1]
    np.testing.assert_array_equal(unpack_dense(pack(twiddle, size), size, width), square_matrix(twiddle))


@pytest.mark.parametrize(
    ("inner", "width", "expected"),
    [
        (16, 1, ["blocks"]),
        (16, 3, ["blocks"]),
        (32, 1, [(1,), "blocks", (1,)]),
        (32, 2, [(1,), "blocks", (1,), "blocks", (1,)]),
        (64, 2, [(2, 1), "blocks", (1, 2), (1,), "blocks", (1, 2)]),
        (256, 1, [(8, 4, 2), (1,), "blocks", (1, 2, 4), (8,)]),
        (256, 2, [(8, 4, 2), (1,), "blocks", (1, 2, 4), (8,), (4, 2, 1), "blocks", (1, 2, 4), (8,)]),
        (1024, 1, [(32, 16, 8), (4, 2, 1), "blocks", (1, 2, 4), (8, 16, 32)]),
    ],
)
def test_stages_follow_the_design(inner: int, width: int, expected: list[object]) -> None:
    found = ["blocks" if isinstance(stage, Blocks) else stage.strides for stage in stages(inner, width)]
    assert found == expected


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("inner", [16, 32, 64, 512])
def test_numbers_is_the_sum_over_stages(inner: int, width: int) -> None:
    total = 0
    for stage in stages(inner, width):
        total += 2 * inner * len(stage.factors) if isinstance(stage, Pass) else LANES * inner
    assert numbers(inner, width) == total


def test_order_inside_a_pass_and_a_block() -> None:
    """The places of single numbers, by hand for n = 128 (8 chunks): stages (4, 2, 1), blocks, (1, 2, 4)."""
    twiddle = np.zeros((2, 7, 64, 2, 2))
    twiddle[0, 5, 19, 1, 0] = 2.0  # stride 32 = 2 chunks: pair 19 is i = 19, lower chunk 1, lane 3
    twiddle[1, 6, 40, 0, 1] = 3.0  # stride 64 = 4 chunks: pair 40 is i = 40, lower chunk 2, lane 8
    packed = pack(twiddle, 128)
    # First pass: 3 factors of 4 pairs of 64 numbers; stride 2 second; lower chunks 0, 1, 4, 5; t10 third.
    first = (1 * 4 + 1) * 64 + 2 * 16 + 3
    # Last pass: after 3 * 256 numbers and 8 blocks of 256; stride 4 third; lower chunks 0 ... 3; t01 second.
    last = 3 * 256 + 8 * 256 + (2 * 4 + 2) * 64 + 16 + 8
    assert {int(place): float(packed[place]) for place in np.flatnonzero(packed)} == {first: 2.0, last: 3.0}


def test_block_is_stored_by_columns() -> None:
    twiddle = np.zeros((2, 4, 8, 2, 2))
    twiddle[..., 0, 0] = twiddle[..., 1, 1] = 1.0
    twiddle[1, 3, 2] = [[1.0, 0.0], [5.0, 1.0]]  # last factor, stride 8: output 10 gains 5 times input 2
    packed = pack(twiddle, 16)
    assert packed[2 * 16 + 10] == 5.0
    assert packed.sum() == 16 + 5


@pytest.mark.parametrize("expansion", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(
    "sizes",
    [(1, 1), (3, 5), (5, 124), (129, 31), (70, 33), (64, 128), (128, 64)],
    ids=lambda s: f"{s[0]}to{s[1]}",
)
def test_layer_of_any_size_is_a_grid_of_squares(sizes: tuple[int, int], width: int, expansion: int) -> None:
    in_features, out_features = sizes
    shape = grid(in_features, out_features, expansion)
    twiddle = random_twiddle(shape.inner, width, shape.rows * shape.cols)
    packed = pack_layer(twiddle, shape.rows, shape.cols)
    n = shape.tile
    oracle = np.block(
        [
            [square_matrix(twiddle[row * shape.cols + col])[:n, :n] for col in range(shape.cols)]
            for row in range(shape.rows)
        ]
    )[:out_features, :in_features]
    found = unpack_layer(packed, sizes, width, expansion)
    np.testing.assert_allclose(found, oracle, rtol=0, atol=half_bound(shape.inner, width))


@pytest.mark.parametrize("out_features", [1, 15, 16, 17, 124])
def test_dense_panels_round_trip(out_features: int) -> None:
    weight = np.random.default_rng(out_features).standard_normal((out_features, 7)).astype(np.float16)
    panels = pack_dense(weight)
    assert panels.shape == (-(-out_features // 16), 7, 16)
    assert panels[0, 3, 0] == weight[0, 3]
    np.testing.assert_array_equal(unpack_panels(panels, out_features), weight)
    assert not panels[-1, :, (out_features - 1) % 16 + 1 :].any()


def test_wrong_shapes_and_values_are_refused() -> None:
    twiddle = random_twiddle(32, 1)
    with pytest.raises(LayoutError, match=r"max\(m, 16\) = 64"):
        pack(twiddle, 64)
    with pytest.raises(LayoutError, match="2 stacks"):
        pack_layer(twiddle[None], 1, 2)
    with pytest.raises(LayoutError, match="power of two"):
        numbers(48, 1)
    with pytest.raises(LayoutError, match="width"):
        numbers(32, 0)
    with pytest.raises(LayoutError, match="has 640 numbers"):
        unpack_dense(np.zeros(5, dtype=np.float16), 32, 1)
    for bad in (np.nan, np.inf, 1e6):
        twiddle[0, 4, 3, 0, 0] = bad
        with pytest.raises(LayoutError, match="half precision"):
            pack(twiddle, 32)
