"""Dense layers as the engine reads them: panels of 16 outputs, in one of three precisions. NumPy only.

parts = pack(weight, "int8")            # {"dense": int8 (panels, groups, 16, 4), "dense_scale": float32}
unpack(parts, outputs=512, inputs=512)  # the float64 weight that those numbers stand for
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kserve.runtime_layout import LANES, Floats, LayoutError, pack_dense, unpack_panels

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
    if precision == "float16":
        return {"dense": pack_dense(weight)}
    panels = _padded(weight, 1).reshape(-1, LANES, weight.shape[1])
    if precision == "float32":
        return {"dense": np.ascontiguousarray(panels.transpose(0, 2, 1), dtype=np.float32)}
    if weight.shape[1] > MAX_INT8_INPUTS:
        raise LayoutError(f"an int8 layer has at most {MAX_INT8_INPUTS} inputs, got {weight.shape[1]}")
    scale = np.abs(panels).max(axis=2) / _INT8_MAX  # (panels, 16)
    steps = np.rint(panels / np.where(scale > 0, scale, 1)[:, :, None]).astype(np.int8)
    groups = _padded(steps.reshape(-1, weight.shape[1]), BYTES_PER_LANE)
    by_group = groups.reshape(len(panels), LANES, -1, BYTES_PER_LANE).transpose(0, 2, 1, 3)
    return {"dense": np.ascontiguousarray(by_group), "dense_scale": scale.astype(np.float32)}


def unpack(parts: Mapping[str, NDArray[Any]], outputs: int, inputs: int) -> Floats:
    """The weight `(out, in)` that the parts stand for, in float64."""
    panels = parts["dense"]
    if panels.ndim != 4:
        return unpack_panels(panels, outputs)
    steps = panels.astype(np.float64).transpose(0, 2, 1, 3).reshape(len(panels) * LANES, -1)
    weight: Floats = steps * parts["dense_scale"].astype(np.float64).reshape(-1, 1)
    return weight[:outputs, :inputs]


def _padded(rows: NDArray[Any], columns: int) -> NDArray[Any]:
    """Zeros added until there are whole panels of rows and a multiple of `columns` columns."""
    down, right = -len(rows) % LANES, -rows.shape[1] % columns
    return np.pad(rows, ((0, down), (0, right)))
