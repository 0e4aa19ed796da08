"""The K-matrix multiply on shapes drawn at random: every instruction set against float64, and row by row."""

from __future__ import annotations

import numpy as np
import pytest

import reference
from kserve._engine import kernels
from reference import UNIT_ROUNDOFF, random_floats, random_words

LARGEST, MOST_ROWS, MOST_SQUARES = 4096, 300, 64


def draw(seed: int) -> tuple[kernels.KMatrixLayer, int]:
    """A layer and a number of rows; small and large sizes alike, each within its limit."""
    rng = np.random.default_rng((17, seed))
    while True:
        inputs, outputs = (int((LARGEST + 1) ** rng.uniform()) for _ in range(2))
        width, expansion = int(rng.integers(1, 4)), int(rng.choice([1, 1, 1, 2, 4]))
        layer = kernels.KMatrixLayer(inputs, outputs, width, expansion)
        if layer.inner <= 2 * LARGEST and layer.grid_rows * layer.grid_cols <= MOST_SQUARES:
            return layer, int((MOST_ROWS + 1) ** rng.uniform())


def check(seed: int) -> None:
    layer, rows = draw(seed)
    shape = (layer.grid_rows, layer.grid_cols, layer.words_per_square)
    rng = np.random.default_rng((18, seed))
    weights = random_words(rng, int(np.prod(shape)), 0.4).reshape(shape)
    x = random_floats(rng, rows, layer.inputs)
    sizes = (layer.inputs, layer.outputs, layer.tile, layer.inner)
    want, magnitude = reference.kmatrix_layer(weights, layer.width, sizes, x)
    bound = reference.kmatrix_roundings(layer.inner, layer.width, layer.grid_cols) * UNIT_ROUNDOFF * magnitude
    fused = None
    for isa in kernels.available():
        table = kernels.choose(isa)
        where = (
            f"{isa}: {layer.inputs} -> {layer.outputs}, width {layer.width}, inner {layer.inner}, {rows} rows"
        )
        got = table.kmatrix(layer, weights, x)
        assert (np.abs(got - want) <= bound + np.finfo(np.float32).tiny).all(), where
        one = int(rng.integers(rows))
        alone = table.kmatrix(layer, weights, x[one : one + 1].copy())
        np.testing.assert_array_equal(alone[0], got[one], err_msg=where)
        if isa != "scalar":
            fused = got if fused is None else fused
            np.testing.assert_array_equal(got, fused, err_msg=where)


@pytest.mark.parametrize("seed", range(12), ids=lambda seed: f"seed{seed}")
def test_any_shape_against_float64(seed: int) -> None:
    check(seed)


@pytest.mark.proof
def test_many_more_shapes_against_float64() -> None:
    for seed in range(12, 200):
        check(seed)


def test_the_draws_reach_far() -> None:
    drawn = [draw(seed) for seed in range(200)]
    sizes = [size for layer, _ in drawn for size in (layer.inputs, layer.outputs)]
    assert min(sizes) == 1
    assert max(sizes) > 3500
    assert {layer.width for layer, _ in drawn} == {1, 2, 3}
    assert min(rows for _, rows in drawn) == 1
    assert max(rows for _, rows in drawn) > 250
    assert max(layer.inner for layer, _ in drawn) >= 4096
