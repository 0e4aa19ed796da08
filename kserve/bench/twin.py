"""The dense twin of a bundle: the same weights, every K-matrix multiplied out, in a precision of choice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kserve import dense_layout
from kserve.architecture import SITES, LinearKind, LinearLayer, linear_layers
from kserve.bundle import Bundle, write_bundle
from kserve.runtime_layout import unpack_layer
from kserve.unit_factors import Floats

WEIGHT_PARTS = ("kmatrix", "dense", "dense_scale")


def write_twins(bundle: Bundle, files: Mapping[str, Path]) -> None:
    """Write bundles whose linear layers are all dense; `files` maps precisions to folders."""
    rest: dict[str, NDArray[Any]] = {
        name: array for name, array in bundle.tensors.items() if name.rpartition(".")[2] not in WEIGHT_PARTS
    }
    tensors = {precision: dict(rest) for precision in files}
    for layer in linear_layers(bundle.shape):
        weight = _weight(bundle, layer, bundle.shape.linear[layer.site])  # once: it takes most of the time
        for precision, numbers in tensors.items():
            for part, array in dense_layout.pack(weight, precision).items():
                numbers[f"{layer.name}.{part}"] = array
    for precision, out in files.items():
        _write(bundle, precision, tensors[precision], out)


def _write(bundle: Bundle, precision: str, tensors: Mapping[str, NDArray[Any]], out: Path) -> None:
    kind = {"kind": "dense", "precision": precision}
    name = f"{bundle.name}-dense-{precision}"
    config = {
        **bundle.config,
        "name": name,
        "architecture": {**bundle.config["architecture"], "linear": dict.fromkeys(SITES, kind)},
    }
    card = f"# {name}\n\nThe dense twin of {bundle.name}: the same weights, multiplied out, for benchmarks.\n"
    write_bundle(out, config, tensors, bundle.tokenizer, card)


def _weight(bundle: Bundle, layer: LinearLayer, kind: LinearKind) -> Floats:
    """The layer's dense weight (out, in), in float64."""
    parts = {
        part: bundle.tensors[f"{layer.name}.{part}"]
        for part in WEIGHT_PARTS
        if f"{layer.name}.{part}" in bundle.tensors
    }
    if kind.kind == "dense":
        return dense_layout.unpack(parts, layer.outputs, layer.inputs)
    return unpack_layer(parts["kmatrix"], (layer.inputs, layer.outputs), kind.width, kind.expansion)
