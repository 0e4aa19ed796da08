"""What a run starts from instead of random weights: `final.pt` of another run, or a model folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kserve.bundle import CONFIG, read_bundle
from kserve.errors import BundleError
from kserve.train.checkpoint import Progress, read_checkpoint, run_folder
from kserve.train.recipe import RecipeError
from kserve.train.restore import trainable_weights
from kserve.train.spec import Architecture


@dataclass(frozen=True)
class Start:
    """Weights, the tokenizer without which they mean nothing, and what went into them."""

    path: Path
    architecture: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    tokenizer: bytes
    progress: Progress  # at step 0, after all steps before


def read_start(path: Path) -> Start:
    """Read a checkpoint of a run, or, if `path` is a folder, a model.

    Raises:
        RecipeError: it is neither, or is damaged, or the checkpoint's run has no tokenizer any more.
    """
    if path.is_dir() and (path / CONFIG).exists():
        return _of_model(path)
    if path.is_file():
        return _of_checkpoint(path)
    raise RecipeError(
        f"there are no weights at {path}; give final.pt of a run, or a model folder, which holds {CONFIG}"
    )


def _of_model(path: Path) -> Start:
    try:
        bundle = read_bundle(path)
    except BundleError as error:
        raise RecipeError(f"cannot start from the model folder {path}: {error}") from error
    architecture = Architecture.from_dict(dict(bundle.config["architecture"])).to_dict()
    # A model of another program does not tell how it was trained.
    trained = bundle.config.get("provenance", {}).get("trained", {})
    return Start(path, architecture, trainable_weights(bundle), bundle.tokenizer, _progress_after(trained))


def _of_checkpoint(path: Path) -> Start:
    state = read_checkpoint(path)
    tokenizer = run_folder(path) / "tokenizer.model"
    if not tokenizer.exists():
        raise RecipeError(f"{tokenizer} is missing; the weights {path} need the tokenizer of their run")
    progress = _progress_after(state["progress"])
    return Start(path, state["architecture"], state["model"], tokenizer.read_bytes(), progress)


def _progress_after(trained: Mapping[str, Any]) -> Progress:
    return Progress(
        seconds=trained.get("seconds", 0.0),
        target_tokens=trained.get("target_tokens", 0),
        steps_before=trained.get("steps_before", 0) + trained.get("step", 0),
    )
