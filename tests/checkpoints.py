"""Small run folders for tests: a random model and a SentencePiece model trained on the sentences below."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kserve.train.data import train_tokenizer
from kserve.train.model import DynamicConvModel
from kserve.train.recipe import Recipe

SENTENCES = [
    ("Ein Hund rennt über die Wiese.", "A dog runs across the meadow."),
    ("Der Zug nach Leipzig hat zehn Minuten Verspätung.", "The train to Leipzig is ten minutes late."),
    ("Meine Schwester backt jeden Sonntag einen Kuchen.", "My sister bakes a cake every Sunday."),
    ("Können Sie mir bitte das Salz reichen?", "Could you pass me the salt, please?"),
    ("Im Keller steht ein altes Fahrrad.", "There is an old bicycle in the cellar."),
    ("Wir haben gestern lange auf den Bus gewartet.", "We waited a long time for the bus yesterday."),
    ("Das Fenster im zweiten Stock ist offen.", "The window on the second floor is open."),
    ("Er schreibt seiner Großmutter einen langen Brief.", "He is writing his grandmother a long letter."),
    ("Warum hast du das Licht nicht ausgemacht?", "Why did you not switch off the light?"),
    ("Auf dem Markt gibt es frische Äpfel und Birnen.", "There are fresh apples and pears at the market."),
    ("Morgen soll es regnen, nimm einen Schirm mit.", "It is supposed to rain tomorrow, take an umbrella."),
    ("Die Katze schläft am liebsten auf dem Sofa.", "The cat likes sleeping on the sofa best."),
]
KMATRIX = {"kind": "kmatrix", "width": 1, "expansion": 1}
DENSE = {"kind": "dense"}
# Every kind of layer at once: wide, expanded, dense and plain K-matrices.
MIXED = {
    "ffn_in": {"kind": "kmatrix", "width": 2},
    "conv_out": {"kind": "kmatrix", "expansion": 2},
    "query": DENSE,
    "kernel": DENSE,
}


def tiny_recipe(linear: dict[str, Any], sites: dict[str, Any] | None = None, glu: bool = True) -> Recipe:
    """A recipe of odd, small sizes; d_ffn and the kernel predictors are no powers of two."""
    return Recipe.model_validate(
        {
            "name": "tiny",
            "languages": {"source": "de", "target": "en"},
            "data": {
                "train": [{"prefix": "own", "licence": "Apache-2.0"}],
                "valid": "own",
                "max_tokens_per_sentence": 48,
            },
            "vocabulary": {"size": 120, "kind": "bpe"},
            "model": {
                "d_model": 40,
                "d_ffn": 72,
                "heads": 4,
                "encoder_kernels": [3, 5],
                "decoder_kernels": [5, 3],
                "glu": glu,
                "max_positions": 64,
                "linear": linear,
                "sites": sites or {},
            },
            "training": {"steps": 1},
            "generation": {"beam_size": 2, "max_source_tokens": 48},
        }
    )


def tiny_model(recipe: Recipe, seed: int = 0) -> DynamicConvModel:
    """A model whose biases and gains are random too, so that none of them can be lost unnoticed."""
    torch.manual_seed(seed)
    model = DynamicConvModel(recipe.model.architecture(recipe.vocabulary.size))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def write_run(folder: Path, recipe: Recipe, model: DynamicConvModel) -> Path:
    """A run folder as training leaves it; returns its final.pt."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(recipe, SENTENCES, folder / "tokenizer.model")
    state = {
        "model": model.state_dict(),
        "architecture": model.arch.to_dict(),
        "recipe": recipe.model_dump(),
        "progress": {
            "step": 1,
            "position": (0, 0),
            "seconds": 5400.0,
            "target_tokens": 2_500_000,
        },
    }
    torch.save(state, folder / "final.pt")
    return folder / "final.pt"
