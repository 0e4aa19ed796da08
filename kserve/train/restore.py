"""A bundle's own, de-quantised weights in the torch model.

Dense, they are what the engine must agree with: every K-matrix comes back as the matrix that its packed words
stand for, so the torch side shares neither the layout nor the order of arithmetic with the engine. With
twiddles, they are where fine-tuning starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kserve import dense_layout
from kserve.architecture import LinearLayer, linear_layers, norm_before
from kserve.bundle import Bundle, read_bundle
from kserve.runtime_layout import unpack_layer, unpack_twiddle
from kserve.train.export import load_checkpoint, state_name
from kserve.train.model import DynamicConvModel
from kserve.train.spec import Architecture, LinearSpec


def restore(bundle: Bundle | Path) -> DynamicConvModel:
    """The torch model of a bundle in float32, every linear layer dense, ready to evaluate."""
    bundle = read_bundle(bundle) if isinstance(bundle, Path) else bundle
    arch = Architecture.from_dict(dict(bundle.config["architecture"]))
    dense = replace(arch, linear=dict.fromkeys(arch.linear, LinearSpec("dense")))
    return _filled(dense, dequantised_weights(bundle))


def load_model(checkpoint: Path) -> DynamicConvModel:
    """The torch model of a training checkpoint, nothing quantised, ready to evaluate."""
    state = load_checkpoint(checkpoint)
    return _filled(Architecture.from_dict(dict(state.architecture)), state.weights)


def dequantised_weights(bundle: Bundle) -> dict[str, Tensor]:
    """State dict of the all-dense DynamicConvModel: the bundle's own numbers, rounded to float32 once."""
    weights = _outside_layers(bundle)
    for layer in linear_layers(bundle.shape):
        kind = bundle.shape.linear[layer.site]
        weight = (
            _dense_weight(bundle, layer)
            if kind.kind == "dense"
            else unpack_layer(*_packed(bundle, layer), kind.width, kind.expansion)
        )
        weights[f"{state_name(layer.name)}.weight"] = _float32(weight)
    return weights


def trainable_weights(bundle: Bundle) -> dict[str, Tensor]:
    """State dict of the DynamicConvModel of the bundle's architecture, K-matrices as twiddles again."""
    weights = _outside_layers(bundle)
    for layer in linear_layers(bundle.shape):
        kind, key = bundle.shape.linear[layer.site], state_name(layer.name)
        if kind.kind == "dense":
            weights[f"{key}.weight"] = _float32(_dense_weight(bundle, layer))
        else:
            twiddle = unpack_twiddle(*_packed(bundle, layer), kind.width, kind.expansion)
            weights[f"{key}.twiddle"] = _float32(twiddle)
    return weights


def _outside_layers(bundle: Bundle) -> dict[str, Tensor]:
    """All weights but the linear layers' matrices."""
    tensors, shape = bundle.tensors, bundle.shape
    table = (
        tensors["embedding.table"].astype(np.float64) * tensors["embedding.scale"].astype(np.float64)[:, None]
    )
    weights = {
        "embedding.weight": _float32(table),
        "decoder.norm.weight": _float32(tensors["decoder.norm.gain"]),
        "decoder.norm.bias": _float32(tensors["decoder.norm.bias"]),
    }
    for name in filter(None, map(norm_before, linear_layers(shape))):
        # Its gain and bias are part of the layers behind it.
        weights[f"{state_name(name)}.weight"] = torch.ones(shape.d_model)
        weights[f"{state_name(name)}.bias"] = torch.zeros(shape.d_model)
    for layer in linear_layers(shape):
        weights[f"{state_name(layer.name)}.bias"] = _float32(tensors[f"{layer.name}.bias"])
    return weights


def _dense_weight(bundle: Bundle, layer: LinearLayer) -> NDArray[Any]:
    parts = {
        part: bundle.tensors[f"{layer.name}.{part}"]
        for part in ("dense", "dense_scale")
        if f"{layer.name}.{part}" in bundle.tensors
    }
    return dense_layout.unpack(parts, layer.outputs, layer.inputs)


def _packed(bundle: Bundle, layer: LinearLayer) -> tuple[NDArray[np.uint32], tuple[int, int]]:
    """A K-matrix's words, and its inputs and outputs."""
    return bundle.tensors[f"{layer.name}.kmatrix"], (layer.inputs, layer.outputs)


def _filled(arch: Architecture, weights: Mapping[str, Tensor]) -> DynamicConvModel:
    model = DynamicConvModel(arch)
    model.load_state_dict(weights)
    return model.eval()


def _float32(array: NDArray[Any]) -> Tensor:
    """A copy of its own: the bundle's arrays are read-only views of a memory map."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
