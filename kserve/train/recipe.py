"""A training recipe: one YAML file, checked before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from kserve.architecture import SITES
from kserve.train.spec import Architecture, LinearSpec


class RecipeError(ValueError):
    """The recipe or its data cannot be used; the message says what to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Languages(_Section):
    """Language codes; also the suffixes of the data files."""

    source: str
    target: str


class Corpus(_Section):
    """Training text PREFIX.source and PREFIX.target, seen `repeat` times an epoch."""

    prefix: str
    repeat: PositiveInt = 1
    licence: str


class Data(_Section):
    """Text files, relative to the data folder given on the command line."""

    train: list[Corpus] = Field(min_length=1)
    valid: str
    max_tokens_per_sentence: PositiveInt = 96


class Vocabulary(_Section):
    """The SentencePiece model, shared by both languages."""

    size: PositiveInt = 8000
    kind: Literal["unigram", "bpe"] = "unigram"


class Linear(_Section):
    """How the linear layers of one site are made."""

    kind: Literal["kmatrix", "dense", "lowrank", "circulant"] = "kmatrix"
    width: PositiveInt = 1
    expansion: PositiveInt = 1


class Model(_Section):
    """Sizes; `linear` holds for every site that `sites` does not name."""

    d_model: PositiveInt = 256
    d_ffn: PositiveInt = 1024
    heads: PositiveInt = 4
    encoder_kernels: list[PositiveInt] = [3, 7, 15, 31, 31, 31]
    decoder_kernels: list[PositiveInt] = [3, 7, 15]
    glu: bool = True
    max_positions: PositiveInt = 512
    # For models of other programs: norms before or after the blocks, the number of the first position, and
    # whether the decoder starts from its own token or from the end token.
    norm: Literal["pre", "post"] = "pre"
    position_offset: NonNegativeInt = 0
    begin: Literal["own", "end"] = "own"
    linear: Linear = Linear()
    sites: dict[Literal[SITES], Linear] = {}  # type: ignore[valid-type]

    def architecture(self, vocab_size: int) -> Architecture:
        """The model's architecture for this vocabulary."""
        linear = {site: LinearSpec(**self.sites.get(site, self.linear).model_dump()) for site in SITES}
        sizes = self.model_dump(exclude={"encoder_kernels", "decoder_kernels", "linear", "sites"})
        return Architecture(
            vocab_size=vocab_size,
            encoder_kernels=tuple(self.encoder_kernels),
            decoder_kernels=tuple(self.decoder_kernels),
            linear=linear,
            **sizes,
        )


class Training(_Section):
    """Optimisation. Steps are updates of the weights."""

    steps: PositiveInt
    batch_tokens: PositiveInt = 3000  # tokens of a batch, at most, on either side
    batches_per_step: PositiveInt = 1  # whose gradients are added up; shared out to the processes of torchrun
    learning_rate: float = Field(default=2e-3, gt=0)  # at the end of the warm-up
    # Learning rate of twiddles over that of the rest: they are larger numbers (docs/design.md, "Training").
    twiddle_rate: float = Field(default=4.0, gt=0)
    warmup_steps: PositiveInt = 800
    cooldown: float = Field(
        default=0.3, ge=0, le=1
    )  # share of the steps in which the rate falls to zero linearly
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float = Field(default=1.0, gt=0)
    validate_every: PositiveInt = 500
    valid_sentences: PositiveInt = 500
    save_every: PositiveInt = 250
    average_last: PositiveInt = 5
    # Share of the start (--weights) in the final weights (Wortsman et al. 2022, "Robust fine-tuning").
    start_share: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 1


class Generation(_Section):
    """Decoding defaults that the bundle carries."""

    beam_size: PositiveInt = 5
    length_penalty: float = 1.0
    max_length_ratio: float = Field(default=2.0, gt=0)
    max_length_extra: PositiveInt = 10
    max_source_tokens: PositiveInt = 128


class Recipe(_Section):
    """Everything that determines a trained model, but for the text."""

    name: str
    languages: Languages
    data: Data
    vocabulary: Vocabulary = Vocabulary()
    model: Model = Model()
    training: Training
    generation: Generation = Generation()

    @model_validator(mode="after")
    def _positions_suffice(self) -> Recipe:
        """Neither training nor serving may need a position that the model has not."""
        for name, tokens in (
            ("data.max_tokens_per_sentence", self.data.max_tokens_per_sentence),
            ("generation.max_source_tokens", self.generation.max_source_tokens),
        ):
            if tokens > self.model.max_positions:
                raise ValueError(f"{name}={tokens} is above model.max_positions={self.model.max_positions}")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        RecipeError: the file is missing, no YAML, or has an unknown, missing or wrong entry (each is named).
    """
    return parse_recipe(read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises RecipeError if there is none."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error


def parse_recipe(data: Any, name: str) -> Recipe:
    """The recipe of parsed YAML; raises RecipeError naming what is wrong in `name`."""
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, item['loc'])) or 'the file'}: {item['msg']} (got {item['input']!r})"
            for item in error.errors(include_url=False)
        )
        raise RecipeError(f"recipe {name}: " + "; ".join(problems)) from error


def changed(base: Any, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of parsed YAML with some entries set, named like `model.linear.kind`."""
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = data
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = value
    return parse_recipe(data, str(changes.get("name", "with changes")))
