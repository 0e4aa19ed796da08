"""The dense twin of a bundle: the same weights, every K-matrix multiplied out, in a precision of choice.

twin = dense_twin(bundle, "int8")            # in memory
Translator(twin).translate("Ein Hund rennt.")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from kserve import dense_layout
from kserve.architecture import SITES, LinearKind, LinearLayer, linear_layers
from kserve.bundle import Bundle
from kserve.runtime_layout import unpack_layer
from kserve.unit_factors import Floats

WEIGHT_PARTS = ("kmatrix", "dense", "dense_scale")


def dense_twin(bundle: Bundle, precision: str) -> Bundle:
    """The twin, in memory; its path is the bundle's own."""
    return dense_twins(bundle, [precision])[precision]


def dense_twins(bundle: Bundle, precisions: Sequence[str]) -> dict[str, Bundle]:
    """Twins by precision; every layer is multiplied out once, which takes most of the time."""
    rest: dict[str, NDArray[Any]] = {
        name: array for name, array in bundle.tensors.items() if name.rpartition(".")[2] not in WEIGHT_PARTS
    }
    tensors = {precision: dict(rest) for precision in precisions}
    for layer in linear_layers(bundle.shape):
        weight = _weight(bundle, layer, bundle.shape.linear[layer.site])
        for precision, numbers in tensors.items():
            for part, array in dense_layout.pack(weight, precision).items():
                numbers[f"{layer.name}.{part}"] = array
    return {precision: _twin(bundle, precision, numbers) for precision, numbers in tensors.items()}


def linear_bytes(bundle: Bundle) -> int:
    """Bytes of the weights of all linear layers."""
    names = [layer.name for layer in linear_layers(bundle.shape)]
    parts = [bundle.tensors.get(f"{name}.{part}") for name in names for part in WEIGHT_PARTS]
    return sum(part.nbytes for part in parts if part is not None)


def _twin(bundle: Bundle, precision: str, tensors: dict[str, NDArray[Any]]) -> Bundle:
    linear = {"kind": "dense", "precision": precision}
    name = f"{bundle.name}-dense-{precision}"
    architecture = {**bundle.config["architecture"], "linear": dict.fromkeys(SITES, linear)}
    return replace(
        bundle,
        name=name,
        shape=replace(bundle.shape, linear=dict.fromkeys(SITES, LinearKind("dense", precision=precision))),
        tensors=tensors,
        config={**bundle.config, "name": name, "architecture": architecture},
    )


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
