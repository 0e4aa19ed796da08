"""`kserve convert fairseq`, from files to a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kserve.convert.fairseq import Options, architecture, read_options, rename, updates
from kserve.convert.pickles import ConvertError, read_foreign_checkpoint
from kserve.convert.project import project
from kserve.convert.run_folder import Converted, Origin, recipe_of, write_run
from kserve.convert.vocabulary import Vocabulary, from_bpe_codes, from_sentencepiece, read_dictionary
from kserve.train.loop import train
from kserve.train.recipe import Recipe, RecipeError, load_recipe


@dataclass(frozen=True)
class Projection:
    """K-matrices that dense layers are projected onto, and steps of the descent."""

    width: int
    expansion: int
    steps: int


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    checkpoint: Path
    out: Path
    dictionary: Path
    sentencepiece: Path | None
    bpe_codes: Path | None
    source: str | None
    target: str | None
    name: str
    licence: str
    to_k: Projection | None
    recipe: Path | None
    data: tuple[Path, ...]


@dataclass(frozen=True)
class Outcome:
    """What was written, and what a projection misses: for each site a share of the weights' norm."""

    final: Path
    missed: dict[str, float]


def convert(request: Request) -> Outcome:
    """Write the run folder, and train on if a recipe is given.

    Raises:
        ConvertError: a file is missing or damaged, or the model has what this program has not.
    """
    further = _further(request)
    state = read_foreign_checkpoint(request.checkpoint)
    options = read_options(state)
    origin = _origin(request, options, updates(state))
    weights, arch, vocabulary = _model(request, state, options)
    missed: dict[str, float] = {}
    if request.to_k is not None:
        kind = {"width": request.to_k.width, "expansion": request.to_k.expansion}
        weights, arch, missed = project(weights, arch, kind, request.to_k.steps)
    recipe = recipe_of(origin, options, arch, further)
    final = write_run(request.out, Converted(weights, arch, vocabulary.tokenizer(), recipe))
    if further is None:
        return Outcome(final, missed)
    try:
        return Outcome(train(request.out / "recipe.yaml", list(request.data), request.out), missed)
    except RecipeError as error:
        raise ConvertError(f"converted to {final}, but it cannot be trained further: {error}") from None


def _further(request: Request) -> Recipe | None:
    """The recipe of the training that follows, checked before anything long begins."""
    if (request.recipe is None) != (not request.data):
        raise ConvertError("to train further, give both --recipe and --data")
    if (request.sentencepiece is None) == (request.bpe_codes is None):
        raise ConvertError(
            "give either --sentencepiece or --bpe-codes: how the training text was cut into the dictionary's "
            "symbols"
        )
    try:
        return load_recipe(request.recipe) if request.recipe else None
    except RecipeError as error:
        raise ConvertError(str(error)) from None


def _origin(request: Request, options: Options, steps: int) -> Origin:
    told = options.languages
    source, target = request.source or told[0], request.target or told[1]
    if not source or not target:
        raise ConvertError("the checkpoint does not tell its languages; give --source and --target")
    return Origin(request.name, source, target, request.licence, steps)


def _model(
    request: Request, state: dict[str, Any], options: Options
) -> tuple[dict[str, Tensor], dict[str, Any], Vocabulary]:
    """Weights and sizes with the vocabulary in this program's order."""
    given = state.get("model")
    table = given.get("encoder.embed_tokens.weight") if isinstance(given, dict) else None
    if not isinstance(given, dict) or not isinstance(table, Tensor):
        raise ConvertError(f"{request.checkpoint} holds no weights of a lightconv model")
    arch = architecture(options, len(table))
    weights = rename(given, options, arch)
    symbols = read_dictionary(request.dictionary, len(table))
    if request.sentencepiece is not None:
        vocabulary = from_sentencepiece(symbols, request.sentencepiece)
    else:
        assert request.bpe_codes is not None
        vocabulary = from_bpe_codes(symbols, request.bpe_codes)
    norm = (weights["decoder.norm.weight"], weights["decoder.norm.bias"])
    weights["embedding.weight"] = vocabulary.table(weights["embedding.weight"], *norm)
    return weights, {**arch, "vocab_size": len(vocabulary.rows)}, vocabulary
