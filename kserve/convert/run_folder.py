"""A converted model as a run folder: what `kserve export` and `kserve train` go on from.

final.pt          weights, sizes and recipe, for `kserve export`
checkpoint.pt     the same with a fresh optimiser, for `kserve train RUN/recipe.yaml --out RUN`
tokenizer.model   the SentencePiece model
recipe.yaml       what trained the model, as far as its checkpoint tells, or what is to train it further
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from torch import Tensor

from kserve.convert.fairseq import Options
from kserve.convert.pickles import ConvertError
from kserve.train.checkpoint import save_atomically
from kserve.train.data import write_atomically
from kserve.train.model import DynamicConvModel
from kserve.train.optimizer import make_optimizer
from kserve.train.recipe import Recipe
from kserve.train.spec import Architecture


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, for its card."""

    name: str
    source: str
    target: str
    licence: str
    steps: int


@dataclass(frozen=True)
class Converted:
    """A model in this program's names: weights, `architecture` entry, tokenizer and recipe."""

    weights: Mapping[str, Tensor]
    arch: Mapping[str, Any]
    tokenizer: bytes
    recipe: Recipe


def recipe_of(origin: Origin, options: Options, arch: Mapping[str, Any], further: Recipe | None) -> Recipe:
    """The recipe of a converted model.

    Args:
        origin: Name, languages and licence.
        options: The checkpoint's options, of which learning rate, dropout and the like are told.
        arch: The model's sizes.
        further: The recipe of the training that follows; its text, training and decoding are taken.

    Raises:
        ConvertError: an option has an impossible value.
    """
    model = {key: value for key, value in arch.items() if key not in ("type", "vocab_size", "linear")}
    model["sites"] = arch["linear"]
    if further is not None:
        rest = further.model_dump(include={"data", "training", "generation"})
        kind = further.vocabulary.kind
    else:
        rest = {"data": _unknown_data(origin), "training": _training(options, origin.steps)}
        rest["generation"] = {"max_source_tokens": arch["max_positions"] // 2}
        kind = "bpe"
    try:
        return Recipe.model_validate(
            {
                "name": origin.name,
                "languages": {"source": origin.source, "target": origin.target},
                "vocabulary": {"size": arch["vocab_size"], "kind": kind},
                "model": model,
                **rest,
            }
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConvertError(f"the checkpoint's options make no recipe: {where}: {problem['msg']}") from None


def _unknown_data(origin: Origin) -> dict[str, Any]:
    return {
        "train": [{"prefix": "not told by the checkpoint", "licence": origin.licence}],
        "valid": "not told",
    }


def _training(options: Options, steps: int) -> dict[str, Any]:
    """What the checkpoint tells of its training; what it does not tell has this program's defaults."""
    told = {
        "learning_rate": _first(options.told("lr")),
        "warmup_steps": options.told("warmup_updates"),
        "batch_tokens": _first(options.told("max_tokens")),
        "dropout": options.told("dropout"),
        "label_smoothing": options.told("label_smoothing"),
    }
    return {"steps": max(1, steps), "average_last": 1} | {
        key: value
        for key, value in told.items()
        if value  # fairseq writes 0 where it means none
    }


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def write_run(out: Path, model: Converted) -> Path:
    """Write the folder; returns final.pt.

    Raises:
        ConvertError: it cannot be written, or holds a run already.
    """
    if (out / "checkpoint.pt").exists():
        raise ConvertError(f"{out} holds a training run already; give another folder")
    torch_model = DynamicConvModel(Architecture.from_dict(dict(model.arch)))
    torch_model.load_state_dict(dict(model.weights))
    state = {
        "model": torch_model.state_dict(),
        "architecture": torch_model.arch.to_dict(),
        "recipe": model.recipe.model_dump(),
        "progress": {"step": 0, "position": (0, 0), "seconds": 0.0, "target_tokens": 0},
    }
    optimizer = make_optimizer(torch_model, model.recipe.training).state_dict()
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "tokenizer.model", model.tokenizer)
        text = yaml.safe_dump(model.recipe.model_dump(), allow_unicode=True, sort_keys=False)
        write_atomically(out / "recipe.yaml", text.encode())
        save_atomically(state | {"progress": {"step": model.recipe.training.steps}}, out / "final.pt")
        save_atomically(state | {"optimizer": optimizer}, out / "checkpoint.pt")
    except OSError as error:
        raise ConvertError(f"cannot write to {out}: {error.strerror}") from None
    return out / "final.pt"
