"""A bundle's own, de-quantised weights in the torch model: what the engine must agree with.

Every K-matrix comes back as the dense matrix that its packed words stand for, so the torch side shares
neither the layout nor the order of arithmetic with the engine.
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
from kserve.architecture import linear_layers, norm_before
from kserve.bundle import Bundle, read_bundle
from kserve.runtime_layout import unpack_layer
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
        kind, key = shape.linear[layer.site], state_name(layer.name)
        if kind.kind == "dense":
            parts = {part: tensors[f"{layer.name}.{part}"] for part in ("dense", "dense_scale")
                     if f"{layer.name}.{part}" in tensors}  # fmt: skip
            weight = dense_layout.unpack(parts, layer.outputs, layer.inputs)
        else:
            packed, sizes = tensors[f"{layer.name}.kmatrix"], (layer.inputs, layer.outputs)
            weight = unpack_layer(packed, sizes, kind.width, kind.expansion)
        weights[f"{key}.weight"] = _float32(weight)
        weights[f"{key}.bias"] = _float32(tensors[f"{layer.name}.bias"])
    return weights


def _filled(arch: Architecture, weights: Mapping[str, Tensor]) -> DynamicConvModel:
    model = DynamicConvModel(arch)
    model.load_state_dict(weights)
    return model.eval()


def _float32(array: NDArray[Any]) -> Tensor:
    """A copy of its own: the bundle's arrays are read-only views of a memory map."""
    return torch.from_numpy(np.array(array, dtype=np.float32))
