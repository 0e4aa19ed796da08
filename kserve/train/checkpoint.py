"""Checkpoint files: written whole or not at all, and averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write beside `path`, then rename: a run killed while saving keeps the old file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def average_weights(paths: list[Path]) -> dict[str, Tensor]:
    """Mean of the state dicts in `paths`."""
    total: dict[str, Tensor] = {}
    for path in paths:
        for name, value in torch.load(path, weights_only=True)["model"].items():
            total[name] = total[name] + value.double() if name in total else value.double()
    return {name: (value / len(paths)).float() for name, value in total.items()}
