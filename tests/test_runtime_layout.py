"""The run-time layout against matrices multiplied out from the twiddle definition in float64."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kserve.runtime_layout import (
    LayoutError,
    are_finite,
    from_words,
    grid,
    multiply_layer,
    pack,
    pack_layer,
    passes,
    scale_inputs,
    to_words,
    unpack_dense,
    unpack_factors,
    unpack_layer,
    unpack_twiddle,
    words,
)
from kserve.unit_factors import LANES, factors_of, twiddle_of

SIZES = [1 << power for power in range(1, 12)]


def square_matrix(twiddle: NDArray[np.float64]) -> NDArray[np.float64]:
    """The K-matrix of a twiddle `(2 * width, log2 n, n / 2, 2, 2)`, pair by pair from docs/design.md."""
    log_size = twiddle.shape[1]
    matrix = np.eye(1 << log_size)
    for block in range(len(twiddle)):
        for bit in range(log_size) if block % 2 else reversed(range(log_size)):
            # Pair p is of rows 2 * (p // stride) * stride + p % stride and the one `stride` further on.
            pairs = matrix.reshape(-1, 2, 1 << bit, 1 << log_size)
            t = twiddle[block, bit].reshape(-1, 1 << bit, 2, 2)
            matrix = np.einsum("gsij,gjsc->gisc", t, pairs).reshape(matrix.shape)
    return matrix


def random_twiddle(
    size: int, width: int, stacks: int | None = None, angles: float = np.pi / 4
) -> NDArray[np.float64]:
    """Rotations by at most `angles` and some noise, so that a long product keeps its scale."""
    generator = np.random.default_rng(size * 10 + width)
    log_size = size.bit_length() - 1
    leading = (2 * width, log_size, size // 2) if stacks is None else (stacks, 2 * width, log_size, size // 2)
    angle = generator.uniform(-angles, angles, leading)
    rotation = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1)
    return rotation.reshape(*leading, 2, 2) + 0.05 * generator.standard_normal((*leading, 2, 2))


def relative_error(got: NDArray[np.float64], want: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


@pytest.mark.parametrize("angles", [np.pi / 4, np.pi], ids=["small", "any"])
@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"n{size}")
def test_packed_square_stands_for_the_twiddle_product(size: int, width: int, angles: float) -> None:
    twiddle = random_twiddle(size, width, angles=angles)
    inner = max(size, LANES)
    packed = pack(twiddle, inner)
    assert packed.shape == (words(inner, width),)
    assert packed.dtype == np.uint32
    dense = unpack_dense(packed, inner, width)
    # Each number moves by at most 2**-8 of itself, by chance either way.
    error = relative_error(dense[:size, :size], square_matrix(twiddle))
    assert error < 2.0**-8 * np.sqrt(2 * width * size.bit_length())
    dense[:size, :size] -= dense[:size, :size]
    dense[range(size, inner), range(size, inner)] -= 1
    assert np.abs(dense).max() < 1e-30, (
        "everything outside a square smaller than a chunk must be the identity"
    )


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", [16, 32, 256, 1024], ids=lambda size: f"n{size}")
def test_unit_factors_multiply_out_to_the_same_matrix(size: int, width: int) -> None:
    twiddle = random_twiddle(size, width)
    result = np.eye(size)
    factors = factors_of(twiddle)
    for factor in factors:
        assert (factor.diagonal is None) == (factor.stride != 1)
        result = factor.apply(result)
    np.testing.assert_allclose(result, square_matrix(twiddle), atol=1e-12)
    joined = width - 1 if size > LANES else 0
    assert len(factors) == width * (2 * size.bit_length() - 3) - joined


@pytest.mark.parametrize("size", [16, 64, 512], ids=lambda size: f"n{size}")
def test_permutations_lose_little(size: int) -> None:
    """Blocks without any diagonal: the worst case of a layout whose diagonals are one."""
    generator = np.random.default_rng(size)
    twiddle = np.zeros((2, size.bit_length() - 1, size // 2, 2, 2))
    swap = generator.integers(0, 2, twiddle.shape[:3]).astype(bool)
    twiddle[..., 0, 0] = twiddle[..., 1, 1] = ~swap
    twiddle[..., 0, 1] = twiddle[..., 1, 0] = swap
    assert relative_error(unpack_dense(pack(twiddle, size), size, 1), square_matrix(twiddle)) < 0.03


@pytest.mark.parametrize(
    ("inner", "width", "expected"),
    [
        (16, 1, [(0, 0, 7)]),
        (16, 3, [(0, 0, 7), (0, 0, 7), (0, 0, 7)]),
        (32, 2, [(0, 1, 9), (0, 1, 8)]),
        (256, 1, [(0, 4, 15)]),
        (256, 2, [(0, 4, 15), (0, 4, 14)]),
        (512, 1, [(3, 2, 2), (0, 3, 13), (3, 2, 2)]),
        (512, 2, [(3, 2, 2), (0, 3, 13), (3, 2, 3), (0, 3, 13), (3, 2, 2)]),
        (2048, 1, [(4, 3, 3), (3, 1, 1), (0, 3, 13), (3, 1, 1), (4, 3, 3)]),
        (2048, 2, [(4, 3, 3), (3, 1, 1), (0, 3, 13), (3, 1, 1), (4, 3, 5), (3, 1, 1), (0, 3, 13), (3, 1, 1),
                   (4, 3, 3)]),
    ],
)  # fmt: skip
def test_passes_follow_the_design(inner: int, width: int, expected: list[tuple[int, int, int]]) -> None:
    assert [(one.low, one.bits, one.factors) for one in passes(inner, width)] == expected


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("inner", [16, 32, 64, 512, 4096])
def test_words_are_half_the_numbers_of_all_factors(inner: int, width: int) -> None:
    factors = sum(one.factors for one in passes(inner, width))
    assert words(inner, width) == (factors + width) * inner // 2


def test_order_of_numbers_inside_passes() -> None:
    """The places of single numbers, by hand for n = 512: passes (256, 128), middle, (128, 256)."""
    twiddle = np.zeros((2, 9, 256, 2, 2))
    twiddle[..., 0, 0] = twiddle[..., 1, 1] = 1
    twiddle[0, 8, 35, 1, 0] = 2.0  # stride 256 = 16 chunks, pair 35: numbers 35 and 291, chunk 18 in group 2
    twiddle[1, 2, 40, 0, 1] = 3.0  # stride 4, pair 40: numbers 80 and 84, chunk 5, lanes 0 and 4
    vectors = from_words(pack(twiddle, 512))
    # First pass: group 2 of 8 has two factors of 4 vectors; the pair of chunks 2 and 18 comes first.
    first = (2 * 8 + 1) * 16 + 3
    # Middle: after 8 groups of 8 vectors; group 0 has 3 outer factors of 8, then strides 8, 4, 2, 1 (two),
    # 2, 4.
    middle = (8 * 8 + 3 * 8 + 6 * 8 + 5) * 16
    flat = vectors.reshape(-1)
    places = np.flatnonzero(np.abs(flat) > 1.5)
    assert {int(place): round(float(flat[place])) for place in places} == {first: 2, middle: 3}


@pytest.mark.parametrize(("inner", "width"), [(16, 1), (16, 2), (64, 3), (512, 2), (4096, 1)])
def test_factors_come_back_from_their_words(inner: int, width: int) -> None:
    twiddle = random_twiddle(inner, width)
    found = unpack_factors(pack(twiddle, inner), inner, width)
    for ours, theirs in zip(factors_of(twiddle), found, strict=True):
        assert ours.stride == theirs.stride
        np.testing.assert_allclose(theirs.partner, ours.partner, rtol=2.0**-7, atol=1e-30)
        if ours.diagonal is not None and theirs.diagonal is not None:
            np.testing.assert_allclose(theirs.diagonal, ours.diagonal, rtol=2.0**-7)


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("size", [2, 4, 8, 16, 32, 512], ids=lambda size: f"n{size}")
def test_a_twiddle_comes_back_from_its_words(size: int, width: int) -> None:
    inner = max(size, LANES)
    packed = pack(random_twiddle(size, width), inner)
    dense = unpack_dense(packed, inner, width)[:size, :size]
    found = twiddle_of(unpack_factors(packed, inner, width), size)
    assert found.shape == (2 * width, size.bit_length() - 1, size // 2, 2, 2)
    np.testing.assert_allclose(square_matrix(found), dense, atol=1e-12)
    again = pack(found, inner)
    if width == 1:
        assert np.array_equal(again, packed)
    else:  # two unit factors that had become one are pushed apart anew
        assert relative_error(unpack_dense(again, inner, width)[:size, :size], dense) < 0.02


@pytest.mark.parametrize("width", [1, 2])
def test_the_factors_of_a_twiddle_that_comes_back_are_balanced(width: int) -> None:
    """Blocks of sizes from 1/30 to 30, which training may come to, are evened out."""
    twiddle = random_twiddle(64, width, angles=np.pi)
    scales = np.exp(np.random.default_rng(4).uniform(-3.4, 3.4, twiddle.shape[:3]))
    found = twiddle_of(factors_of(twiddle * scales[..., None, None]), 64)
    for block, level in [(0, 2), (1, 3), (2 * width - 1, 1)]:
        step = 1 if block % 2 else -1
        rows = by_number(np.linalg.norm(found[block, level], axis=2), 1 << level)
        columns = by_number(np.linalg.norm(found[block, level + step], axis=1), 1 << (level + step))
        np.testing.assert_allclose(rows, columns, rtol=0.02)
    norms = np.linalg.norm(found, axis=(3, 4)).mean(2)
    assert norms.max() < 1.5 * norms.min()


def by_number(of_pairs: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """What each number of a pair has, (pairs, 2), in the order of the numbers."""
    pair = np.arange(len(of_pairs))
    low = (pair // stride) * 2 * stride + pair % stride
    result = np.empty(of_pairs.size)
    result[low], result[low + stride] = of_pairs[:, 0], of_pairs[:, 1]
    return result


def test_numbers_that_nothing_depends_on_come_back_too() -> None:
    twiddle = random_twiddle(16, 1)
    twiddle[1, 2, 3] = 0
    twiddle[0, 1, 5, :, 1] = 0
    found = twiddle_of(factors_of(twiddle), 16)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(square_matrix(found), square_matrix(twiddle), atol=1e-2)


def test_two_numbers_of_a_word_are_the_nearest_there_are() -> None:
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((40, LANES)) * np.logspace(-12, 12, 40)[:, None]
    vectors[4, :] = 0.0
    found = from_words(to_words(vectors))
    error = np.abs(found - vectors)
    assert (error[0::2] <= np.abs(vectors[0::2]) * 2.0**-8).all()
    # The second one's last bits are the first one's: half a step of its upper 16 bits, at most.
    assert (error[1::2] <= np.abs(vectors[1::2]) * 2.0**-7).all()
    step = np.abs(vectors[1::2]) * 2.0**-9
    for other in (found[1::2] + step, found[1::2] - step):
        assert (np.abs(other - vectors[1::2]) >= error[1::2] - step * 1.001).all()


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
    n = shape.tile
    oracle = np.block(
        [
            [square_matrix(twiddle[row * shape.cols + col])[:n, :n] for col in range(shape.cols)]
            for row in range(shape.rows)
        ]
    )[:out_features, :in_features]
    packed = pack_layer(twiddle, shape.rows, shape.cols)
    found = unpack_layer(packed, sizes, width, expansion)
    assert relative_error(found, oracle) < 0.03
    recovered = unpack_twiddle(packed, sizes, width, expansion)
    assert recovered.shape == twiddle.shape
    found_again = unpack_layer(pack_layer(recovered, shape.rows, shape.cols), sizes, width, expansion)
    assert relative_error(found_again, found) < 0.02
    x, gain = np.random.default_rng(1).standard_normal((2, in_features))
    np.testing.assert_allclose(multiply_layer(twiddle, shape, x)[:out_features], oracle @ x, atol=1e-12)
    scaled = scale_inputs(twiddle, shape, gain)
    np.testing.assert_allclose(
        multiply_layer(scaled, shape, x)[:out_features], oracle @ (gain * x), atol=1e-12
    )


def test_wrong_shapes_and_values_are_refused() -> None:
    twiddle = random_twiddle(32, 1)
    with pytest.raises(LayoutError, match=r"max\(m, 16\) = 64"):
        pack(twiddle, 64)
    with pytest.raises(LayoutError, match="2 stacks"):
        pack_layer(twiddle[None], 1, 2)
    with pytest.raises(LayoutError, match="power of two"):
        words(48, 1)
    with pytest.raises(LayoutError, match="width"):
        words(32, 0)
    with pytest.raises(LayoutError, match="has 160 words"):
        unpack_dense(np.zeros(5, dtype=np.uint32), 32, 1)
    for bad in (np.nan, np.inf):
        twiddle[0, 4, 3, 0, 0] = bad
        with pytest.raises(LayoutError, match="NaN or infinite"):
            pack(twiddle, 32)
    with pytest.raises(LayoutError, match="too large for 16 bits"):
        to_words(np.full((2, 16), 3.4e38))


def test_a_square_that_cannot_be_held_is_refused() -> None:
    """So many blocks without a diagonal in a row that their product leaves the range of floats."""
    twiddle = np.zeros((2, 14, 1 << 13, 2, 2))
    twiddle[..., 0, 1] = twiddle[..., 1, 0] = 1
    with pytest.raises(LayoutError, match=r"comes back changed|too large"):
        pack(twiddle, 1 << 14)


def test_words_that_hold_no_number_are_found() -> None:
    good = to_words(np.ones((2, 16)))
    assert are_finite(good)
    for bad in (0x7F80, 0x7F800000, 0xFFC0, 0xFFC00000):
        spoiled = good.copy()
        spoiled[3] = bad
        assert not are_finite(spoiled)
