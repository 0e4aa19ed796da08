"""Checkpoint files: written whole or not at all, read without running code, and averaged."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kserve.train.recipe import RecipeError


@dataclass
class Progress:
    """Where a run stands; part of the checkpoint."""

    step: int = 0
    position: tuple[int, int] = (0, 0)  # epoch, batch of it
    seconds: float = 0.0  # these two with those of the run whose weights were the start
    target_tokens: int = 0
    steps_before: int = 0  # of that run


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write beside `path`, then rename: a run that is killed or finds the disk full keeps the old file.

    Raises:
        RecipeError: it could not be written.
    """
    temporary = path.with_suffix(".tmp")
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = "the one before is kept" if path.exists() else "there is none yet"
        raise RecipeError(
            f"cannot write the checkpoint {path} ({_first_line(error)}); {kept}: make room and run again"
        ) from error


def read_checkpoint(
    path: Path,
    parts: Collection[str] = ("model", "architecture", "progress"),
    advice: str = "move it away to start afresh",
) -> dict[str, Any]:
    """Read a checkpoint of a run; a file that holds more than tensors and plain values is refused.

    Args:
        path: `final.pt`, `checkpoint.pt` or one of `weights/` of a run folder.
        parts: What it must hold.
        advice: What to do about a file that is none, for the message.

    Raises:
        RecipeError: it is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RecipeError(f"no checkpoint at {path}; train first, or give the path of final.pt") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise RecipeError(
            f"{path} is no checkpoint of this program ({_first_line(error)}); {advice}"
        ) from error
    missing = set(parts) - set(state if isinstance(state, dict) else ())
    if missing:
        raise RecipeError(f"{path} holds no {sorted(missing)}; {advice}")
    checked: dict[str, Any] = state
    return checked


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def average_weights(paths: list[Path]) -> dict[str, Tensor]:
    """Mean of the state dicts in `paths`."""
    total: dict[str, Tensor] = {}
    for path in paths:
        for name, value in read_checkpoint(path)["model"].items():
            total[name] = total[name] + value.double() if name in total else value.double()
    return {name: (value / len(paths)).float() for name, value in total.items()}


def run_folder(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint."""
    return checkpoint.parent.parent if checkpoint.parent.name == "weights" else checkpoint.parent
