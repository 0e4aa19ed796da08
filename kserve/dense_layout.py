"""Dense layers as the engine reads them: panels of 16 outputs, in one of three precisions. NumPy only.

The output layer is an int8 layer of this form; the embedding holds the same numbers by rows.

parts = pack(weight, "int8")            # {"dense": int8 (panels, groups, 16, 4), "dense_scale": float32}
unpack(parts, outputs=512, inputs=512)  # the float64 weight that those numbers stand for
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kserve.runtime_layout import LayoutError
from kserve.unit_factors import LANES, Floats

PRECISIONS = ("float16", "float32", "int8")
BYTES_PER_LANE = 4  # bytes of one output that are multiplied together
MAX_INT8_INPUTS = 1 << 16  # the exact sum of their products still fits 32 bits
_INT8_MAX = 127


def shapes(inputs: int, outputs: int, precision: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type by its safetensors name, and shape, of each part."""
    panels = -(-outputs // LANES)
    if precision == "int8":
        groups = -(-inputs // BYTES_PER_LANE)
        return {
            "dense": ("I8", (panels, groups, LANES, BYTES_PER_LANE)),
            "dense_scale": ("F32", (panels, LANES)),
        }
    return {"dense": ("F32" if precision == "float32" else "F16", (panels, inputs, LANES))}


def pack(weight: NDArray[np.floating], precision: str) -> dict[str, NDArray[Any]]:
    """A weight `(out, in)` in its parts; int8 is symmetric, with a scale per output."""
    if precision not in PRECISIONS:
        raise LayoutError(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
    if weight.ndim != 2 or 0 in weight.shape:
        raise LayoutError(f"a dense weight must be (out, in), got shape {weight.shape}")
    if precision != "int8":
        panels = _padded(weight, 1).reshape(-1, LANES, weight.shape[1])
        return {"dense": _narrow(panels.transpose(0, 2, 1), np.dtype(precision))}
    if weight.shape[1] > MAX_INT8_INPUTS:
        raise LayoutError(f"an int8 layer has at most {MAX_INT8_INPUTS} inputs, got {weight.shape[1]}")
    codes, scale = quantise_rows(weight)
    return {"dense": byte_panels(codes), "dense_scale": _padded(scale[:, None], 1).reshape(-1, LANES)}


def quantise_rows(weight: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 by rows: `weight (rows, n)` is `codes (rows, n) * scale (rows,)`, off by half a step."""
    if not np.isfinite(weight).all():
        raise LayoutError("a weight is NaN or infinite; export an earlier checkpoint")
    scale = (np.abs(weight).max(axis=1) / _INT8_MAX).astype(np.float32)
    steps = weight / np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
    return np.clip(np.rint(steps), -_INT8_MAX, _INT8_MAX).astype(np.int8), scale


def byte_panels(codes: NDArray[np.int8]) -> NDArray[np.int8]:
    """Codes (rows, n) in panels (ceil(rows / 16), ceil(n / 4), 16, 4), zero padded."""
    whole = _padded(codes, BYTES_PER_LANE)
    by_group = whole.reshape(-1, LANES, whole.shape[1] // BYTES_PER_LANE, BYTES_PER_LANE)
    return np.ascontiguousarray(by_group.transpose(0, 2, 1, 3))


def unpack(parts: Mapping[str, NDArray[Any]], outputs: int, inputs: int) -> Floats:
    """The weight `(out, in)` that the parts stand for, in float64."""
    panels = parts["dense"]
    if panels.ndim != 4:
        rows: Floats = panels.astype(np.float64).transpose(0, 2, 1).reshape(-1, inputs)
        return rows[:outputs]
    steps = panels.astype(np.float64).transpose(0, 2, 1, 3).reshape(len(panels) * LANES, -1)
    weight: Floats = steps * parts["dense_scale"].astype(np.float64).reshape(-1, 1)
    return weight[:outputs, :inputs]


def _narrow(values: NDArray[np.floating], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in a type of fewer bits, contiguous; refuses NaN and what lies beyond its range."""
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(values, dtype=dtype)
    if not np.isfinite(result).all():
        worst = values[~np.isfinite(result)][0]
        raise LayoutError(f"weight {worst} does not fit {dtype.name}; train it smaller")
    return result


def _padded(rows: NDArray[Any], columns: int) -> NDArray[Any]:
    """Zeros added until there are whole panels of rows and a multiple of `columns` columns."""
    down, right = -len(rows) % LANES, -rows.shape[1] % columns
    return np.pad(rows, ((0, down), (0, right)))
