"""Each kernel on each instruction set against float64, bit for bit where that is promised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import reference
from kserve._engine import kernels
from kserve.dense_layout import byte_panels
from kserve.runtime_layout import pack
from reference import UNIT_ROUNDOFF, Floats, random_floats, random_halves, random_words, widened

SIZES = [1, 15, 16, 17, 31, 33, 255, 512, 1025]
size_cases = pytest.mark.parametrize("n", SIZES, ids=[f"n{n}" for n in SIZES])

# (inputs, outputs, width, expansion)
Case = tuple[int, int, int, int]
LAYERS: list[Case] = [
    *[(n, n, 1, 1) for n in SIZES],
    *[(32, 32, 2, 1), (64, 64, 3, 1), (256, 256, 2, 1), (512, 512, 2, 1), (256, 256, 1, 2), (24, 24, 2, 2)],
    *[(8, 8, 1, 4), (256, 28, 1, 1), (28, 256, 1, 1), (100, 300, 1, 1), (300, 100, 2, 1), (1, 40, 1, 1)],
    *[(40, 1, 1, 1), (256, 512, 1, 1), (512, 256, 1, 1)],
]
layer_cases = pytest.mark.parametrize("case", LAYERS, ids=["n{}-{}-w{}-e{}".format(*case) for case in LAYERS])


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_within(got: NDArray[np.float32], want: Floats, bound: Floats | float) -> None:
    """Every number within its own bound; says which one is worst."""
    excess = np.abs(got - want) - (bound + np.finfo(np.float32).tiny)
    worst = np.unravel_index(int(np.argmax(excess)), excess.shape)
    assert np.isfinite(got).all()
    assert excess[worst] <= 0, f"at {worst}: got {got[worst]}, wanted {want[worst]}, {excess[worst]} too far"


def make_layer(case: Case) -> tuple[kernels.KMatrixLayer, NDArray[np.uint32]]:
    """A layer with random weights, small enough that numbers stay near 1 through many factors."""
    layer = kernels.KMatrixLayer(*case)
    shape = (layer.grid_rows, layer.grid_cols, layer.words_per_square)
    return layer, random_words(generator(*case), int(np.prod(shape)), 0.4).reshape(shape)


@layer_cases
def test_kmatrix_against_float64(table: kernels.Kernels, case: Case) -> None:
    layer, weights = make_layer(case)
    x = random_floats(generator(1), 3, layer.inputs)
    sizes = (layer.inputs, layer.outputs, layer.tile, layer.inner)
    want, magnitude = reference.kmatrix_layer(weights, layer.width, sizes, x)
    roundings = reference.kmatrix_roundings(layer.inner, layer.width, layer.grid_cols)
    assert_within(table.kmatrix(layer, weights, x), want, roundings * UNIT_ROUNDOFF * magnitude)
    assert_within(table.kmatrix(layer, weights, x[:1]), want[:1], roundings * UNIT_ROUNDOFF * magnitude[:1])


def test_kmatrix_epilogue_adds_bias_then_relu_then_residual(table: kernels.Kernels) -> None:
    layer, weights = make_layer((40, 70, 1, 1))
    x, bias = random_floats(generator(2), 5, 40), random_floats(generator(3), 70)
    residual = random_floats(generator(4), 5, 70)
    plain = table.kmatrix(layer, weights, x)
    extras = kernels.LinearExtras(bias=bias, relu=True, residual=residual)
    got = table.kmatrix(layer, weights, x, extras)
    np.testing.assert_array_equal(got, np.maximum(plain + bias, 0) + residual)


@pytest.mark.parametrize(
    "case", [(256, 512, 1, 1), (512, 512, 1, 1), (512, 256, 1, 1), (70, 40, 2, 1)], ids=str
)
def test_kmatrix_normalises_its_input(table: kernels.Kernels, case: Case) -> None:
    layer, weights = make_layer(case)
    x = random_floats(generator(13), 6, layer.inputs) * 3 + 1
    bias = random_floats(generator(14), layer.outputs)
    unit = np.stack([table.layer_norm(row) for row in x])
    for residual in (None, random_floats(generator(15), 6, layer.outputs)):
        want = table.kmatrix(layer, weights, unit, kernels.LinearExtras(bias=bias, residual=residual))
        extras = kernels.LinearExtras(bias=bias, residual=residual, normalise=True)
        np.testing.assert_array_equal(table.kmatrix(layer, weights, x, extras), want)


@pytest.mark.parametrize(
    "case", [(256, 256, 1, 1), (100, 300, 2, 1), (300, 28, 1, 2), (16, 16, 1, 1)], ids=str
)
def test_kmatrix_row_does_not_depend_on_the_others(table: kernels.Kernels, case: Case) -> None:
    layer, weights = make_layer(case)
    x = random_floats(generator(5), 19, layer.inputs)
    alone = np.concatenate([table.kmatrix(layer, weights, x[i : i + 1]) for i in range(len(x))])
    for rows in (*range(1, 10), 16, 17, 19):
        np.testing.assert_array_equal(table.kmatrix(layer, weights, x[:rows]), alone[:rows])
    np.testing.assert_array_equal(table.kmatrix(layer, weights, x[3:10].copy()), alone[3:10])


@pytest.mark.parametrize("n", [2, 16, 32, 256, 1024], ids=lambda n: f"n{n}")
def test_kmatrix_of_hadamard_is_the_transform(table: kernels.Kernels, n: int) -> None:
    """Factors [[1, 1], [1, -1]] after identities, to what 16 bits make of a 1 that shares its word."""
    twiddle = np.zeros((2, n.bit_length() - 1, n // 2, 2, 2))
    twiddle[0, ..., 0, 0] = twiddle[0, ..., 1, 1] = 1
    twiddle[1] = np.array([[1, 1], [1, -1]])
    layer = kernels.KMatrixLayer(n, n)
    hadamard = np.ones((1, 1))
    while len(hadamard) < n:
        hadamard = np.kron(np.array([[1, 1], [1, -1]]), hadamard)
    x = random_floats(generator(6), 2, n)
    got = table.kmatrix(layer, pack(twiddle, layer.inner).reshape(1, 1, -1), x)
    error = np.linalg.norm(got - x @ hadamard.T) / np.linalg.norm(x @ hadamard.T)
    assert error < 2.0**-8 * np.sqrt(2 * n.bit_length())


@size_cases
@pytest.mark.parametrize("outputs", [1, 16, 17, 150], ids=lambda n: f"out{n}")
def test_dense_against_float64(table: kernels.Kernels, n: int, outputs: int) -> None:
    weights = random_halves(generator(n, outputs), (-(-outputs // 16), n, 16), 1.0)
    x = random_floats(generator(7), 6, n)
    want, magnitude = reference.dense_layer(weights, outputs, x)
    assert_within(
        table.dense(kernels.DenseLayer(n, outputs, weights), x), want, 2 * n * UNIT_ROUNDOFF * magnitude
    )


def test_dense_row_does_not_depend_on_the_others(table: kernels.Kernels) -> None:
    layer = kernels.DenseLayer(75, 150, random_halves(generator(8), (10, 75, 16), 1.0))
    x, bias = random_floats(generator(9), 9, 75), random_floats(generator(10), 150)
    residual = random_floats(generator(11), 9, 150)
    alone = [
        table.dense(layer, x[i : i + 1], kernels.LinearExtras(bias, True, residual[i : i + 1]))
        for i in range(9)
    ]
    for rows in range(1, 10):
        extras = kernels.LinearExtras(bias, True, residual[:rows])
        got = table.dense(layer, x[:rows], extras)
        np.testing.assert_array_equal(got, np.concatenate(alone[:rows]))
    plain = table.dense(layer, x)
    np.testing.assert_array_equal(np.concatenate(alone), np.maximum(plain + bias, 0) + residual)


@size_cases
def test_layer_norm_against_float64(table: kernels.Kernels, n: int) -> None:
    x, gain, bias = (random_floats(generator(n, i), n) for i in range(3))
    x = x * 3 + 1
    want = reference.layer_norm(x, gain, bias)
    # The mean's error, n / 16 + 4 additions at worst, comes back divided by the deviation.
    spread = np.abs(x).max() / np.sqrt(float(x.var()) + 1e-5)
    size = (spread + np.abs(want - bias)) * np.abs(gain).max() + np.abs(bias)
    assert_within(table.layer_norm(x, gain, bias), want, (n / 8 + 16) * UNIT_ROUNDOFF * size)


@size_cases
def test_layer_norm_without_gain_normalises(table: kernels.Kernels, n: int) -> None:
    x = random_floats(generator(n), n)
    ones, zeros = np.ones(n, np.float32), np.zeros(n, np.float32)
    np.testing.assert_array_equal(table.layer_norm(x), table.layer_norm(x, ones, zeros))


def test_layer_norm_of_a_constant_row_is_the_bias(table: kernels.Kernels) -> None:
    x, bias = np.full(48, 3.0, np.float32), random_floats(generator(12), 48)
    np.testing.assert_array_equal(table.layer_norm(x, np.ones(48, np.float32), bias), bias)


@size_cases
def test_softmax_against_float64(table: kernels.Kernels, n: int) -> None:
    x = random_floats(generator(n), n) * 5
    want = reference.softmax(x)
    assert_within(table.softmax(x), want, (n / 16 + 24 + np.abs(x - x.max())) * UNIT_ROUNDOFF * want)


def test_softmax_of_extremes(table: kernels.Kernels) -> None:
    x = np.array([-np.inf, 1e4, -1e4, 1e4, -3e38], np.float32)
    np.testing.assert_array_equal(table.softmax(x), np.array([0, 0.5, 0, 0.5, 0], np.float32))
    for at in (0, 5, 20):
        x = np.zeros(21, np.float32)
        x[at] = np.nan
        assert np.isnan(table.softmax(x)).all()


def test_exponential_is_within_three_ulp(table: kernels.Kernels) -> None:
    """Read from a softmax: y / y[0] is exp(x - x[0]) with two more roundings."""
    x = -np.concatenate([[0.0], np.logspace(-6, np.log10(86), 40_000)]).astype(np.float32)
    y = table.softmax(x).astype(np.float64)
    usable = y > 1e-35  # the sum, about 2e4, would else make the quotient subnormal
    error = np.abs(y / y[0] / np.exp(x.astype(np.float64)) - 1)[usable]
    assert error.max() < 2e-7 + 2 * UNIT_ROUNDOFF


@size_cases
def test_glu_against_float64(table: kernels.Kernels, n: int) -> None:
    u = random_floats(generator(n), 2 * n) * 4
    want = reference.glu(u)
    assert_within(table.glu(u), want, 12 * UNIT_ROUNDOFF * np.abs(want))


def test_glu_of_extreme_gates(table: kernels.Kernels) -> None:
    gates = np.array([-np.inf, -1e4, -100, 100, 1e4, np.inf], np.float32)
    got = table.glu(np.concatenate([np.full(6, 2.0, np.float32), gates]))
    np.testing.assert_allclose(got, [0, 0, 0, 2, 2, 2], atol=1e-37)


@size_cases
@pytest.mark.parametrize("taps", [1, 3, 31], ids=lambda n: f"k{n}")
def test_dynconv_against_float64(table: kernels.Kernels, n: int, taps: int) -> None:
    window, weights = random_floats(generator(n), taps, 3 * n), random_floats(generator(taps), 3, taps)
    present = [j % 3 != 1 for j in range(taps)]
    want, magnitude = reference.dynconv(window, present, weights)
    assert_within(table.dynconv(window, present, weights), want, 2 * taps * UNIT_ROUNDOFF * magnitude)


@size_cases
def test_dynconv_of_halves_is_that_of_their_floats(table: kernels.Kernels, n: int) -> None:
    window, weights = random_halves(generator(n), (7, 3 * n), 1.0), random_floats(generator(7), 3, 7)
    present = [j % 3 != 1 for j in range(7)]
    got = table.dynconv_half(window, present, weights)
    np.testing.assert_array_equal(got, table.dynconv(widened(window).astype(np.float32), present, weights))


@size_cases
@pytest.mark.parametrize("length", [1, 5, 40], ids=lambda n: f"len{n}")
def test_attention_against_float64(table: kernels.Kernels, n: int, length: int) -> None:
    queries = random_floats(generator(n), 8, 2 * n)  # five at once, two, and one
    halves = [random_halves(generator(n, seed), (length, 2 * n), 1.0) for seed in (1, 2)]
    keys, values = widened(halves[0]), widened(halves[1])
    want, shares = reference.attention(queries, keys, values, 2)
    got, got_shares = table.attention(queries, halves[0], halves[1], 2)
    # A score's error: its roundings, times the product of norms; it is the relative error of its share.
    key_norm = np.linalg.norm(keys.reshape(length, 2, -1), axis=2).max()
    norms = float(np.linalg.norm(queries.reshape(8, 2, -1), axis=2).max() * key_norm)
    relative = (n / 8 + 24 + length / 8) * UNIT_ROUNDOFF * (1 + norms / np.sqrt(n))
    assert_within(got_shares, shares, 4 * relative * shares)
    assert_within(got, want, (4 * relative + 2 * length * UNIT_ROUNDOFF) * np.abs(values).max())


@size_cases
@pytest.mark.parametrize("count", range(1, 13), ids=lambda n: f"rows{n}")
def test_attention_of_many_rows_is_that_of_each(table: kernels.Kernels, n: int, count: int) -> None:
    queries = random_floats(generator(n), count, 2 * n)
    keys, values = (random_halves(generator(n, seed), (23, 2 * n), 1.0) for seed in (1, 2))
    together = table.attention(queries, keys, values, 2)
    for row in range(count):
        alone = table.attention(queries[row : row + 1], keys, values, 2)
        for got, want in zip(together, alone, strict=True):
            np.testing.assert_array_equal(got[row : row + 1], want)


@size_cases
def test_embed_against_float64(table: kernels.Kernels, n: int) -> None:
    row = generator(n).integers(-127, 128, n).astype(np.int8)
    position = random_floats(generator(n, 1), n)
    scale = np.float32(0.037)
    want = row.astype(np.float64) * float(scale) + position
    bound = UNIT_ROUNDOFF * (2 * np.abs(row * float(scale)) + np.abs(position))
    assert_within(table.embed(row, float(scale), position), want, bound)


@pytest.mark.parametrize("n", [15, 17, 64, 255], ids=lambda n: f"n{n}")
def test_wide_paths_give_the_same_bits(wide_tables: list[kernels.Kernels], n: int) -> None:
    layer, weights = make_layer((n, 2 * n + 1, 2, 1))
    panels = random_halves(generator(n), (-(-n // 16), n, 16), 1.0)
    x, window = random_floats(generator(n, 1), 5, n), random_floats(generator(n, 2), 7, 4 * n)
    rows = generator(n).integers(-127, 128, (9, n)).astype(np.int8)
    vocabulary = kernels.Vocabulary(rows, byte_panels(rows), random_floats(generator(n, 3), 9))
    keys = random_halves(generator(n, 4), (11, 4 * n), 1.0)

    def run(table: kernels.Kernels) -> list[bytes]:
        arrays: list[NDArray[Any]] = [
            table.kmatrix(layer, weights, x),
            table.dense(kernels.DenseLayer(n, n, panels), x),
            table.layer_norm(x[0], x[1], x[2]),
            table.glu(window[0]),
            table.softmax(x[0] * 5),
            table.dynconv(window, [True] * 7, x[:4, :7].copy()),
            *table.attention(window, keys, keys, 4),
            table.embed(rows[0], 0.1, x[0]),
            table.narrow(x[0]),
            table.dynconv_half(keys[:7].copy(), [True] * 7, x[:4, :7].copy()),
            *table.rank_tokens(vocabulary, x, 4),
        ]
        return [array.tobytes() for array in arrays]

    first, *others = map(run, wide_tables)
    assert all(other == first for other in others)


def test_every_half_is_widened_exactly(table: kernels.Kernels) -> None:
    """All finite halves, as a dense layer of one input."""
    halves = np.arange(65536, dtype=np.uint16)
    halves = halves[np.isfinite(halves.view(np.float16))]
    panels = halves.reshape(-1, 1, 16)
    got = table.dense(kernels.DenseLayer(1, len(halves), panels), np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(got[0], halves.view(np.float16).astype(np.float32))


def test_narrowing_is_that_of_numpy(table: kernels.Kernels) -> None:
    """Every half, what lies just between two of them, subnormal and too large numbers."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([halves, between, np.nextafter(between, 0), np.nextafter(between, np.float32(np.inf))])
    x = np.concatenate([x, -x, [65519.9, 65520, 1e30, np.inf, -np.inf, 1e-40]]).astype(np.float32)
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    np.testing.assert_array_equal(table.narrow(x).view(np.float16), want)
    assert np.isnan(table.narrow(np.full(3, np.nan, np.float32)).view(np.float16)).all()


def test_arrays_of_another_type_or_stride_are_refused(table: kernels.Kernels) -> None:
    with pytest.raises(TypeError):
        table.softmax(np.zeros(4))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        table.softmax(np.zeros(8, np.float32)[::2])


def test_wrong_shape_is_refused_with_both_shapes(table: kernels.Kernels) -> None:
    layer, weights = make_layer((16, 16, 1, 1))
    with pytest.raises(ValueError, match=r"x has shape \(2, 15\), expected \(any, 16\)"):
        table.kmatrix(layer, weights, np.zeros((2, 15), np.float32))


def test_impossible_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="expansion 3 is not a power of two"):
        kernels.KMatrixLayer(16, 16, expansion=3)
    with pytest.raises(ValueError, match="every size must be at least 1"):
        kernels.KMatrixLayer(16, 0)
