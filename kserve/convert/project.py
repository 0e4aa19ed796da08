"""Dense layers projected onto K-matrices: the nearest ones that gradient descent finds.

A trained dense layer is rarely near a K-matrix with an eighth of its numbers. The projection is a start
that is better than a random one; a model is good again only after it has been trained on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kserve.architecture import linear_layers, parse_architecture
from kserve.kmatrix import KLinear
from kserve.kmatrix.layers import dense_weights
from kserve.train.export import state_name

RATE = 0.02  # of Adam at the start; it falls to zero linearly


def project(
    weights: Mapping[str, Tensor], arch: Mapping[str, Any], kind: Mapping[str, int], steps: int
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, float]]:
    """Every linear layer of a model as a K-matrix.

    Args:
        weights: State dict of the dense model.
        arch: Its `architecture` entry.
        kind: `width` and `expansion` of the K-matrices.
        steps: Steps of gradient descent.

    Returns:
        The state dict and the architecture of the K model; and for each site the error that is left: the norm
        of what the K-matrices miss over that of the weights.
    """
    plain = {key: value for key, value in arch.items() if key not in ("norm", "position_offset", "begin")}
    layers = {state_name(layer.name): layer for layer in linear_layers(parse_architecture(plain))}
    dense = {name: weights[f"{name}.weight"] for name in layers}
    fitted = {
        name: KLinear(layer.inputs, layer.outputs, width=kind["width"], expansion=kind["expansion"])
        for name, layer in layers.items()
    }
    fit(fitted, dense, steps)
    result = {name: value for name, value in weights.items() if name.rpartition(".")[0] not in layers}
    missed: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, layer in layers.items():
        result[f"{name}.twiddle"] = fitted[name].twiddle.detach()
        result[f"{name}.bias"] = weights[f"{name}.bias"]
        difference = fitted[name].to_dense().detach() - dense[name]
        missed[layer.site][0] += float(difference.square().sum())
        missed[layer.site][1] += float(dense[name].square().sum())
    sites = {site: {"kind": "kmatrix", **kind} for site in arch["linear"]}
    errors = {site: (left / max(all_of_it, 1e-30)) ** 0.5 for site, (left, all_of_it) in missed.items()}
    return result, {**arch, "linear": sites}, errors


def fit(layers: Mapping[str, KLinear], dense: Mapping[str, Tensor], steps: int) -> None:
    """Move each layer's twiddles so that its dense form nears dense[name], (out_features, in_features).

    Adam on the squared distances, each measured by the norm of what is wanted, for all layers at once.
    """
    wanted = [dense[name].float() for name in layers]
    scales = [float(1 / weight.square().sum().clamp_min(1e-12)) for weight in wanted]
    twiddles = []
    for layer, weight in zip(layers.values(), wanted, strict=True):
        _set_norm(layer, weight)
        twiddles.append(layer.twiddle)
    optimizer = torch.optim.Adam(twiddles, lr=RATE, betas=(0.9, 0.99), fused=True)
    for step in tqdm(range(steps), unit="step", desc="projection", leave=False):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        made = dense_weights(list(layers.values()), twiddles)
        losses = [
            (one - other).square().sum() * scale
            for one, other, scale in zip(made, wanted, scales, strict=True)
        ]
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(losses).sum())
        optimizer.step()


def _set_norm(layer: KLinear, weight: Tensor) -> None:
    """Bring a layer whose squares are orthogonal to the norm of the weight that it is to approach."""
    with torch.no_grad():
        factors = layer.twiddle.shape[1] * layer.twiddle.shape[2]
        ratio = weight.norm().clamp_min(1e-6) / layer.to_dense().norm()
        layer.twiddle.mul_(ratio ** (1 / factors))
