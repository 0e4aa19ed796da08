"""A recipe and text of made-up sentences that train in a second, for tests of training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from kserve.train.data import Folders
from kserve.train.loop import Run
from kserve.train.processes import Processes
from kserve.train.recipe import load_recipe

GERMAN = ("der Hund", "die Katze", "das Kind", "ein Vogel", "mein Freund", "eine alte Frau")
ENGLISH = ("the dog", "the cat", "the child", "a bird", "my friend", "an old woman")
VERBS = (("schläft", "sleeps"), ("singt laut", "sings loudly"), ("wartet hier", "waits here"))
PLACES = (("im Garten", "in the garden"), ("am See", "by the lake"), ("zu Hause", "at home"))

# A training process of its own: recipe, data folder and run folder follow.
TRAIN = (
    sys.executable,
    "-c",
    "import sys, pathlib; from kserve.train.loop import train; "
    "recipe, data, out = map(pathlib.Path, sys.argv[1:]); train(recipe, [data], out)",
)


def recipe_dict(**training: Any) -> dict[str, Any]:
    """A recipe that trains in a second."""
    return {
        "name": "tiny",
        "languages": {"source": "de", "target": "en"},
        "data": {
            "train": [{"prefix": "train", "licence": "own"}],
            "valid": "valid",
            "max_tokens_per_sentence": 60,
        },
        "vocabulary": {"size": 60},
        "model": {
            "d_model": 16,
            "d_ffn": 32,
            "heads": 2,
            "encoder_kernels": [3],
            "decoder_kernels": [3],
            "max_positions": 64,
        },
        "training": {
            "steps": 12,
            "batch_tokens": 60,
            "warmup_steps": 4,
            "validate_every": 6,
            "save_every": 3,
            "valid_sentences": 4,
            "dropout": 0.1,
        }
        | training,
        "generation": {"max_source_tokens": 60},
    }


def write_recipe(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


def write_text(folder: Path) -> Path:
    """Fill the folder with train.de/en and valid.de/en."""
    pairs = [
        (f"{g} {v[0]} {p[0]}.", f"{e} {v[1]} {p[1]}.")
        for g, e in zip(GERMAN, ENGLISH, strict=True)
        for v in VERBS
        for p in PLACES
    ]
    for name, part in (("train", pairs), ("valid", pairs[:6])):
        for side, suffix in enumerate(("de", "en")):
            (folder / f"{name}.{suffix}").write_text(
                "\n".join(p[side] for p in part) + "\n", encoding="utf-8"
            )
    return folder


def start(recipe: Path, data: Path, folder: Path, weights: Path | None = None) -> Run:
    """A run of one process."""
    alone = Processes(0, 1, torch.device("cpu"))
    return Run(load_recipe(recipe), Folders([data]), folder, alone, weights)
