"""A checkpoint whose structured layers have become dense: what the engine can run of any kind of layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from kserve.kmatrix.rivals import CirculantLinear, LowRankLinear
from kserve.train.checkpoint import read_checkpoint, save_atomically
from kserve.train.model import DynamicConvModel
from kserve.train.spec import RIVALS, Architecture, LinearSpec


def multiply_out(checkpoint: Path, out: Path) -> Path:
    """Write the checkpoint with the layers of K-matrices' rivals multiplied out; K-matrices stay.

    Returns:
        `out`, or `checkpoint` itself where there is nothing to multiply out.

    Raises:
        RecipeError: it is no checkpoint, or cannot be written.
    """
    state = read_checkpoint(checkpoint)
    arch = Architecture.from_dict(state["architecture"])
    if not any(spec.kind in RIVALS for spec in arch.linear.values()):
        return checkpoint
    model = DynamicConvModel(arch)
    model.load_state_dict(state["model"])
    weights = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, LowRankLinear | CirculantLinear):
            weights = {key: value for key, value in weights.items() if not key.startswith(f"{name}.")}
            weights[f"{name}.weight"] = layer.to_dense().detach()
            weights[f"{name}.bias"] = layer.bias.detach()
    linear = {
        site: LinearSpec("dense") if spec.kind in RIVALS else spec for site, spec in arch.linear.items()
    }
    dense = replace(arch, linear=linear)
    with torch.device("meta"):
        missing = DynamicConvModel(dense).state_dict().keys() ^ weights.keys()
    assert not missing, missing
    save_atomically({**state, "model": weights, "architecture": dense.to_dict()}, out)
    return out
