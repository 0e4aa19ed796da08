"""Dense layers in float32 and int8: layout, kernels on each instruction set, and in a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from numpy.typing import NDArray

from kserve import Translator, dense_layout
from kserve._engine import kernels
from kserve.architecture import SITES
from kserve.bundle import read_bundle, write_bundle
from kserve.errors import BundleConfigError
from kserve.runtime_layout import LayoutError
from reference import UNIT_ROUNDOFF, random_floats

SHAPES = [(1, 1), (15, 17), (64, 16), (75, 150), (513, 40)]  # (inputs, outputs)
shape_cases = pytest.mark.parametrize("shape", SHAPES, ids=["n{}-{}".format(*shape) for shape in SHAPES])
Weight = NDArray[np.float64]


def random_weight(shape: tuple[int, int]) -> Weight:
    return np.random.default_rng(shape).standard_normal(shape[::-1])


def layer(weight: Weight, precision: str) -> kernels.DenseLayer:
    parts = dense_layout.pack(weight, precision)
    return kernels.DenseLayer(weight.shape[1], len(weight), parts["dense"], parts.get("dense_scale"))


def to_bytes(x: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows in whole steps of their largest number / 127, by the float32 operations that are specified."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    return np.rint(x * (np.float32(127) / largest)).astype(np.int64), largest / np.float32(127)


@shape_cases
def test_float32_against_float64(table: kernels.Kernels, shape: tuple[int, int]) -> None:
    weight, x = random_weight(shape), random_floats(np.random.default_rng(1), 6, shape[0])
    stored = weight.astype(np.float32).astype(np.float64)
    got = table.dense(layer(weight, "float32"), x)
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(stored.T)
    bound = 2 * shape[0] * UNIT_ROUNDOFF * magnitude
    assert (np.abs(got - x.astype(np.float64) @ stored.T) <= bound).all()


@shape_cases
def test_int8_sums_are_exact(table: kernels.Kernels, shape: tuple[int, int]) -> None:
    """The bits of the specified formula: an exact whole sum, once times the product of both scales."""
    weight, x = random_weight(shape), random_floats(np.random.default_rng(2), 70, shape[0])
    parts = dense_layout.pack(weight, "int8")
    unit = {"dense": parts["dense"], "dense_scale": np.ones_like(parts["dense_scale"])}
    steps = dense_layout.unpack(unit, shape[1], shape[0]).astype(np.int64)
    x_steps, x_scale = to_bytes(x)
    scale = parts["dense_scale"].reshape(-1)[: shape[1]] * x_scale
    want = (x_steps @ steps.T).astype(np.float32) * scale
    np.testing.assert_array_equal(table.dense(layer(weight, "int8"), x), want)


def test_int8_extremes_do_not_saturate(table: kernels.Kernels) -> None:
    x = np.full((5, 4096), -1, np.float32)
    panels = np.full((1, 1024, 16, 4), -128, np.int8)
    panels[:, :, 1::2] = 127
    held = kernels.DenseLayer(4096, 16, panels, np.full((1, 16), 0.5, np.float32))
    want = np.where(np.arange(16) % 2, -127.0, 128.0) * 127 * 4096 * 0.5 * float(np.float32(1 / 127))
    np.testing.assert_allclose(table.dense(held, x), np.tile(want, (5, 1)), rtol=1e-6)


def test_int8_of_zero_tiny_and_not_finite_rows(table: kernels.Kernels) -> None:
    x = np.zeros((4, 20), np.float32)
    x[1] = 1e-40
    x[2, 3], x[3, 5] = np.nan, np.inf
    got = table.dense(layer(random_weight((20, 33)), "int8"), x)
    np.testing.assert_array_equal(got[:2], 0)
    assert np.isnan(got[2:]).all()


@pytest.mark.parametrize("precision", dense_layout.PRECISIONS)
def test_row_does_not_depend_on_the_others(table: kernels.Kernels, precision: str) -> None:
    weight, x = random_weight((75, 150)), random_floats(np.random.default_rng(3), 131, 75)
    bias, residual = (
        random_floats(np.random.default_rng(4), 150),
        random_floats(np.random.default_rng(5), 131, 150),
    )
    held = layer(weight, precision) if precision != "float16" else half_layer(weight)
    alone = [
        table.dense(held, x[i : i + 1], kernels.LinearExtras(bias, True, residual[i : i + 1]))
        for i in range(131)
    ]
    for rows in (*range(1, 10), 64, 131):
        got = table.dense(held, x[:rows], kernels.LinearExtras(bias, True, residual[:rows]))
        np.testing.assert_array_equal(got, np.concatenate(alone[:rows]))


def half_layer(weight: Weight) -> kernels.DenseLayer:
    halves = dense_layout.pack(weight, "float16")["dense"].view(np.uint16)
    return kernels.DenseLayer(weight.shape[1], len(weight), halves)


@shape_cases
def test_wide_paths_give_the_same_bits(wide_tables: list[kernels.Kernels], shape: tuple[int, int]) -> None:
    x = random_floats(np.random.default_rng(6), 9, shape[0])
    for precision in ("float32", "int8"):
        held = layer(random_weight(shape), precision)
        first, *others = (table.dense(held, x) for table in wide_tables)
        for other in others:
            np.testing.assert_array_equal(other, first)


@shape_cases
@pytest.mark.parametrize(
    ("precision", "most"), [("float16", 2.0**-11), ("float32", 2.0**-24), ("int8", 0.51 / 127)]
)
def test_layout_round_trip(shape: tuple[int, int], precision: str, most: float) -> None:
    weight = random_weight(shape)
    parts = dense_layout.pack(weight, precision)
    wanted = dense_layout.shapes(*shape, precision)
    assert {name: array.shape for name, array in parts.items()} == {n: spec[1] for n, spec in wanted.items()}
    back = dense_layout.unpack(parts, shape[1], shape[0])
    assert np.abs(back - weight).max() <= most * np.abs(weight).max()


def test_layout_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(LayoutError, match="precision 'int4' is unknown"):
        dense_layout.pack(np.zeros((2, 2)), "int4")
    with pytest.raises(LayoutError, match="at most 65536 inputs, got 65537"):
        dense_layout.pack(np.zeros((1, 65537), np.int8), "int8")


def test_kernel_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="int8 weights need a scale"):
        kernels.DenseLayer(4, 16, np.zeros((1, 1, 16, 4), np.int8))
    with pytest.raises(ValueError, match="weights are float64, expected"):
        kernels.DenseLayer(4, 16, np.zeros((1, 4, 16)))
    with pytest.raises(ValueError, match=r"weights has shape \(1, 4, 16\), expected \(1, 5, 16\)"):
        kernels.DenseLayer(5, 16, np.zeros((1, 4, 16), np.float32))


@pytest.mark.parametrize("precision", dense_layout.PRECISIONS)
def test_a_bundle_of_each_precision_translates_alike(tmp_path: Path, precision: str) -> None:
    settings = tiny_bundle.config("dense")
    half = tiny_bundle.tensors(settings)
    stored = {"kind": "dense", "precision": precision}
    settings["architecture"]["linear"] = dict.fromkeys(SITES, stored)
    tensors: dict[str, NDArray[Any]] = {}
    for name, array in half.items():
        if not name.endswith(".dense"):
            tensors[name] = array
            continue
        outputs = len(half[name[: -len("dense")] + "bias"])
        weight = dense_layout.unpack({"dense": array}, outputs, array.shape[1])
        for part, numbers in dense_layout.pack(weight, precision).items():
            tensors[name.replace("dense", part)] = numbers
    write_bundle(tmp_path / "m", settings, tensors, tiny_bundle.tokenizer_model(), "# For tests\n")
    assert read_bundle(tmp_path / "m").describe()["architecture"]["linear"]["query"]["precision"] == precision
    source = [5, 9, 30, 2]
    tiny_bundle.write(tmp_path / "half", "dense")
    want = Translator(tmp_path / "half").engine.encode(source)
    got = Translator(tmp_path / "m").engine.encode(source)
    error = float(np.abs(got - want).max() / np.abs(want).max())
    assert error <= {"float16": 0.0, "float32": 1e-6, "int8": 0.2}[precision]


def test_unknown_precision_is_refused(tmp_path: Path) -> None:
    folder = tiny_bundle.copy_to(tmp_path / "m")

    def change(settings: dict[str, Any]) -> None:
        settings["architecture"]["linear"]["query"] = {"kind": "dense", "precision": "int4"}

    tiny_bundle.edit_config(folder, change)
    with pytest.raises(BundleConfigError, match=r"linear.query.precision is 'int4'; expected one of float16"):
        read_bundle(folder)
