"""From a training checkpoint to a bundle: packed K-matrices, an int8 embedding, a model card.

    export(Path("runs/de-en/final.pt"), Path("models/de-en"))

Names, types and shapes of the tensors are those of `kserve.architecture.expected_tensors`; a checkpoint is
read with `weights_only`, so it cannot run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kserve import dense_layout
from kserve.architecture import (
    LinearKind,
    LinearLayer,
    ModelShape,
    linear_layers,
    norm_before,
    parse_architecture,
)
from kserve.runtime_layout import LayoutError, grid, multiply_layer, pack_layer, scale_inputs
from kserve.train.checkpoint import read_checkpoint, run_folder
from kserve.train.data import Folders, load_corpora, read_pairs
from kserve.train.draft import Draft
from kserve.train.recipe import parse_recipe
from kserve.train.shortlist import with_shortlist

Array = NDArray[Any]

_TRAINED = ("step", "steps_before", "seconds", "target_tokens")


class ExportError(ValueError):
    """The checkpoint cannot become a bundle; the message says what is wrong with which file or tensor."""


@dataclass(frozen=True)
class Checkpoint:
    """What training wrote: weights by name, sizes as in config.json, the recipe, and how far it came."""

    path: Path
    weights: Mapping[str, Tensor]
    architecture: Mapping[str, Any]
    recipe: Mapping[str, Any]
    progress: Mapping[str, Any]


def export(
    checkpoint: Path,
    out: Path,
    tokenizer: Path | None = None,
    scores: Sequence[Path] = (),
    dense_scores: Sequence[Path] = (),
    shortlist_from: Folders | None = None,
    shortlist_on: Sequence[str] = (),
    precision: str = "float16",
) -> Path:
    """Write the bundle of a checkpoint.

    Args:
        checkpoint: `final.pt`, `checkpoint.pt` or one of `weights/` of a run folder.
        out: Folder of the bundle; replaced if it is one already.
        tokenizer: SentencePiece model; default is `tokenizer.model` of the run folder.
        scores: JSON files that `kserve eval --json` wrote; recorded under their names without ending.
        dense_scores: The same of a dense twin, of names that `scores` has; recorded beside those.
        shortlist_from: Where the recipe's text lies; a shortlist is learned from it, and used by default if
            it costs little.
        shortlist_on: Texts there on which it is tried; none: the recipe's validation text.
        precision: Of the dense layers, one of `dense_layout.PRECISIONS`; K-matrices have their own.

    Returns:
        `out`.

    Raises:
        ExportError: another file is missing, a weight is missing, left over or too large.
        RecipeError: the checkpoint is missing or none, or the text of the recipe cannot be read.
    """
    source = _stored(load_checkpoint(checkpoint), precision)
    shape = parse_architecture(dict(source.architecture))
    quality = _quality(scores, dense_scores)
    draft = Draft(
        config=_config(source, quality),
        tensors=bundle_tensors(source.weights, shape),
        tokenizer=_tokenizer_bytes(checkpoint, tokenizer, shape),
    )
    if shortlist_from is not None:
        draft = _with_shortlist(draft, source, shortlist_from, shortlist_on)
    draft.write(out)
    return out


def _stored(source: Checkpoint, precision: str) -> Checkpoint:
    """The checkpoint with the precision in which its dense layers are to be stored."""
    if precision not in dense_layout.PRECISIONS:
        raise ExportError(f"precision {precision!r} is unknown; use {', '.join(dense_layout.PRECISIONS)}")
    linear = {
        site: {**spec, "precision": precision} if spec["kind"] == "dense" else spec
        for site, spec in source.architecture["linear"].items()
    }
    return replace(source, architecture={**source.architecture, "linear": linear})


def _with_shortlist(draft: Draft, source: Checkpoint, folders: Folders, names: Sequence[str]) -> Draft:
    recipe = parse_recipe(dict(source.recipe), str(source.path))
    languages = recipe.languages.source, recipe.languages.target
    texts = {name: read_pairs(folders, name, languages) for name in names or [recipe.data.valid]}
    corpora, _ = load_corpora(recipe, folders, run_folder(source.path))
    return with_shortlist(draft, corpora, texts)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of `kserve train`; raises RecipeError if it is none."""
    state = read_checkpoint(path, ("model", "architecture", "recipe"), "give a run's final.pt")
    return Checkpoint(path, state["model"], state["architecture"], state["recipe"], state.get("progress", {}))


def bundle_tensors(weights: Mapping[str, Tensor], shape: ModelShape) -> dict[str, Array]:
    """The bundle's tensors from DynamicConvModel's state dict; no weight may be missing or left over."""
    rest = _Weights(weights)
    table, scale = _quantised(rest.take("embedding.weight"))
    result: dict[str, Array] = {
        "embedding.table": table,
        "embedding.scale": scale,
        "output.panels": dense_layout.byte_panels(table),
        "decoder.norm.gain": rest.take("decoder.norm.weight").astype(np.float32),
        "decoder.norm.bias": rest.take("decoder.norm.bias").astype(np.float32),
    }
    layers = linear_layers(shape)
    norms = {name: _norm(rest, name) for name in dict.fromkeys(map(norm_before, layers)) if name is not None}
    for layer in layers:
        gain, offset = norms.get(norm_before(layer) or "", (None, None))
        key, kind = state_name(layer.name), shape.linear[layer.site]
        weight = rest.take(f"{key}.{'weight' if kind.kind == 'dense' else 'twiddle'}")
        bias = rest.take(f"{key}.bias")
        if gain is not None and offset is not None:
            bias = bias + _times(weight, layer, kind, offset)
            weight = _scaled(weight, layer, kind, gain)
        result[f"{layer.name}.bias"] = bias.astype(np.float32)
        for part, array in _packed(layer, weight, kind).items():
            result[f"{layer.name}.{part}"] = array
    if rest.unused():
        raise ExportError(
            f"weights without a place in the bundle: {rest.unused()}; is the architecture the run's own?"
        )
    return result


def _norm(rest: _Weights, name: str) -> tuple[Array, Array]:
    """Gain and bias of a layer norm."""
    return rest.take(f"{state_name(name)}.weight"), rest.take(f"{state_name(name)}.bias")


def _times(weight: Array, layer: LinearLayer, kind: LinearKind, x: Array) -> Array:
    """The layer, without its bias, times x (in)."""
    if kind.kind == "dense":
        return weight @ x
    cut = grid(layer.inputs, layer.outputs, kind.expansion)
    return multiply_layer(weight, cut, x)[: layer.outputs]


def _scaled(weight: Array, layer: LinearLayer, kind: LinearKind, gain: Array) -> Array:
    """The layer of inputs multiplied by gain (in)."""
    if kind.kind == "dense":
        return weight * gain
    return scale_inputs(weight, grid(layer.inputs, layer.outputs, kind.expansion), gain)


def _quantised(table: Array) -> tuple[Array, Array]:
    try:
        return dense_layout.quantise_rows(table)
    except LayoutError as error:
        raise ExportError(f"embedding.weight: {error}") from error


def _packed(layer: LinearLayer, weight: Array, kind: LinearKind) -> dict[str, Array]:
    try:
        if kind.kind == "dense":
            return dense_layout.pack(weight, kind.precision)
        cut = grid(layer.inputs, layer.outputs, kind.expansion)
        return {"kmatrix": pack_layer(weight, cut.rows, cut.cols)}
    except LayoutError as error:
        raise ExportError(f"{layer.name}: {error}") from error


def state_name(name: str) -> str:
    """The state-dict name of a bundle's layer or norm: `encoder.0.conv_in` is `encoder.layers.0.conv_in`."""
    side, _, rest = name.partition(".")
    return f"{side}.layers.{rest}" if rest[:1].isdigit() else name


class _Weights:
    """A state dict whose entries are taken once each, as float64 arrays."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._left = dict.fromkeys(weights)

    def take(self, name: str) -> Array:
        if name not in self._left:
            raise ExportError(f"the checkpoint has no weight {name!r}; its architecture asks for it")
        del self._left[name]
        array: Array = self._weights[name].detach().double().numpy()
        return array

    def unused(self) -> list[str]:
        return sorted(self._left)


def _config(source: Checkpoint, quality: Mapping[str, Any]) -> dict[str, Any]:
    """config.json but for what `write_bundle` fills in."""
    recipe = source.recipe
    progress = {key: source.progress[key] for key in _TRAINED if key in source.progress}
    return {
        "name": recipe["name"],
        "languages": dict(recipe["languages"]),
        "architecture": dict(source.architecture),
        "generation": {**recipe["generation"], "shortlist": False},
        "provenance": {
            "recipe": {key: recipe[key] for key in ("data", "vocabulary", "training")},
            "trained": progress,
            "torch": torch.__version__.split("+")[0],
        },
        "quality": dict(quality),
    }


def _tokenizer_bytes(checkpoint: Path, tokenizer: Path | None, shape: ModelShape) -> bytes:
    """The SentencePiece model, checked to have as many pieces as the embedding has rows."""
    from sentencepiece import SentencePieceProcessor

    path = tokenizer or run_folder(checkpoint) / "tokenizer.model"
    try:
        data = path.read_bytes()
        pieces = SentencePieceProcessor(model_proto=data).get_piece_size()
    except OSError as error:
        raise ExportError(f"cannot read the tokenizer {path}: {error.strerror}; give its path") from error
    except RuntimeError as error:
        raise ExportError(f"{path} is no SentencePiece model; give the tokenizer.model of the run") from error
    if pieces != shape.vocab_size:
        raise ExportError(
            f"{path} has {pieces} pieces, the model {shape.vocab_size}; give the run's own tokenizer"
        )
    return data


def _quality(scores: Sequence[Path], dense_scores: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Scores by the name of their text, those of a dense twin within."""
    quality = {file.stem: _read_scores(file) for file in scores}
    for file in dense_scores:
        if file.stem not in quality:
            raise ExportError(
                f"there are scores of a dense twin on {file.stem}, but none of the model; give --scores "
                f"with a file of that name, or leave {file} out"
            )
        quality[file.stem]["dense_twin"] = _read_scores(file)
    return quality


def _read_scores(file: Path) -> dict[str, Any]:
    try:
        scores = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read the scores {file}: {error}") from error
    if not isinstance(scores, dict) or "bleu" not in scores:
        raise ExportError(f"{file} holds no `bleu`; expected a file that `kserve eval --json` wrote")
    return scores
