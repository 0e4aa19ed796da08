"""The optimiser: Adam in two groups, its learning rate over the steps, and the bound on the gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kserve.train.recipe import Training


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, inverse square root, then a linear cool-down to zero at the last step (step from 1)."""
    warm = training.warmup_steps
    rate = training.learning_rate * min(step / warm, math.sqrt(warm / step))
    cooldown = training.cooldown * training.steps
    left = training.steps - step
    return rate * min(1.0, left / cooldown) if cooldown >= 1 else rate


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Adam:
    """Adam in two groups, since twiddles may learn at another rate: the others, then the twiddles."""
    twiddles = [p for name, p in model.named_parameters() if name.endswith("twiddle")]
    others = [p for name, p in model.named_parameters() if not name.endswith("twiddle")]
    groups = [{"params": others, "scale": 1.0}]
    if twiddles:
        groups.append({"params": twiddles, "scale": training.twiddle_rate})
    return torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * rate


def clip_gradients(parameters: Iterable[Tensor], limit: float) -> float:
    """Shrink the gradients, all by one factor, to a norm of at most `limit`; returns the norm before."""
    parameters = list(parameters)
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(grads, foreach=True)
    if norm > limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm, foreach=True)
    return float(norm)
