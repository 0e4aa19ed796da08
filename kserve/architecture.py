"""The shape of a model as config.json tells it, and the tensors that follow from it. No files, no engine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from kserve import dense_layout
from kserve.errors import BundleConfigError
from kserve.runtime_layout import grid, words

ENCODER_SITES = ("conv_in", "kernel", "conv_out", "ffn_in", "ffn_out")
DECODER_SITES = ("conv_in", "kernel", "conv_out", "query", "key", "value", "attn_out", "ffn_in", "ffn_out")
SITES = ("conv_in", "conv_out", "kernel", "query", "key", "value", "attn_out", "ffn_in", "ffn_out")

_LIMIT = 1 << 24  # no size in a real model comes near; larger ones are damage, not ambition


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be: its type by the safetensors name (F16, F32, I8, I32, U32) and its shape."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class LinearKind:
    """How the linear layers of one site are stored: width and expansion of a K-matrix, or a precision."""

    kind: str
    width: int = 1
    expansion: int = 1
    precision: str = "float16"


@dataclass(frozen=True)
class ShortlistSize:
    """Tokens on the lists of all source tokens together, and on the list for any sentence."""

    tokens: int
    always: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the encoder-decoder; field names are those of config.json."""

    vocab_size: int
    d_model: int
    d_ffn: int
    heads: int
    encoder_kernels: tuple[int, ...]
    decoder_kernels: tuple[int, ...]
    glu: bool
    max_positions: int
    linear: Mapping[str, LinearKind]
    shortlist: ShortlistSize | None = None


@dataclass(frozen=True)
class LinearLayer:
    """One linear layer of the model: the prefix of its tensors' names, its site and its sizes."""

    name: str
    site: str
    inputs: int
    outputs: int


# The layer norm in front of a site. Its gain and bias are part of the site's weights in a bundle; only the
# norm in front of the output layer keeps its own.
NORM_BEFORE = {
    "conv_in": "conv_norm",
    "query": "attn_norm",
    "ffn_in": "ffn_norm",
    "key": "encoder.norm",
    "value": "encoder.norm",
}


def norm_before(layer: LinearLayer) -> str | None:
    """The full name of the layer norm in front of a layer, or None."""
    norm = NORM_BEFORE.get(layer.site)
    if norm is None or norm == "encoder.norm":
        return norm
    return f"{layer.name.rpartition('.')[0]}.{norm}"


def parse_architecture(raw: Any) -> ModelShape:
    """config.json's `architecture`, checked field by field."""
    fields = _mapping(raw, "architecture")
    kind = fields.get("type")
    if kind != "dynamicconv":
        raise BundleConfigError(f"config.json: architecture.type is {kind!r}; this engine runs 'dynamicconv'")
    foreign = {key: fields[key] for key in ("norm", "position_offset", "begin") if key in fields}
    if foreign:
        raise BundleConfigError(
            f"config.json: architecture has {foreign}, of a model of another program; this engine runs norms "
            "before the blocks, positions from 0 on and a begin token of its own"
        )
    shape = ModelShape(
        vocab_size=whole(fields, "architecture", "vocab_size", least=5),
        d_model=whole(fields, "architecture", "d_model", least=4),
        d_ffn=whole(fields, "architecture", "d_ffn"),
        heads=whole(fields, "architecture", "heads"),
        encoder_kernels=_kernels(fields, "encoder_kernels"),
        decoder_kernels=_kernels(fields, "decoder_kernels"),
        glu=flag(fields, "architecture", "glu"),
        max_positions=whole(fields, "architecture", "max_positions", least=2),
        linear=_linear(fields.get("linear")),
        shortlist=_shortlist(fields.get("shortlist")),
    )
    if shape.d_model % shape.heads or shape.d_model % 2:
        raise BundleConfigError(
            f"config.json: architecture.d_model is {shape.d_model}; it must be even and a multiple of "
            f"architecture.heads ({shape.heads})"
        )
    return shape


def linear_layers(shape: ModelShape) -> list[LinearLayer]:
    """Every linear layer, in the order of the model."""
    sides = (
        ("encoder", shape.encoder_kernels, ENCODER_SITES),
        ("decoder", shape.decoder_kernels, DECODER_SITES),
    )
    return [
        LinearLayer(f"{side}.{index}.{site}", site, *site_sizes(shape, site, taps))
        for side, kernels, sites in sides
        for index, taps in enumerate(kernels)
        for site in sites
    ]


def expected_tensors(shape: ModelShape) -> dict[str, TensorSpec]:
    """Every tensor that a bundle of this shape holds, by name: the one place that knows the list."""
    panels = dense_layout.shapes(shape.d_model, shape.vocab_size, "int8")["dense"]
    result = {
        "embedding.table": TensorSpec("I8", (shape.vocab_size, shape.d_model)),
        "embedding.scale": TensorSpec("F32", (shape.vocab_size,)),
        "output.panels": TensorSpec(*panels),
        "decoder.norm.gain": TensorSpec("F32", (shape.d_model,)),
        "decoder.norm.bias": TensorSpec("F32", (shape.d_model,)),
    }
    for layer in linear_layers(shape):
        for suffix, spec in _weight(layer, shape.linear[layer.site]).items():
            result[f"{layer.name}.{suffix}"] = spec
        result[f"{layer.name}.bias"] = TensorSpec("F32", (layer.outputs,))
    if shape.shortlist is not None:
        result["shortlist.first"] = TensorSpec("I32", (shape.vocab_size + 1,))
        result["shortlist.tokens"] = TensorSpec("I32", (shape.shortlist.tokens,))
        result["shortlist.always"] = TensorSpec("I32", (shape.shortlist.always,))
    return result


def count_parameters(shape: ModelShape) -> dict[str, int]:
    """Numbers in the model: all stored ones, those of the linear layers, and a dense twin's linear layers."""
    specs = expected_tensors(shape)
    # The output layer holds the numbers of the embedding once more; a shortlist is no part of the model.
    apart = ("output.panels", "shortlist.")
    total = sum(_numbers(spec) for name, spec in specs.items() if not name.startswith(apart))
    linear = sum(_numbers(spec) for name, spec in specs.items() if name.endswith((".kmatrix", ".dense")))
    dense = sum(layer.inputs * layer.outputs for layer in linear_layers(shape))
    return {"total": total, "linear": linear, "linear_dense": dense}


def whole(fields: Mapping[str, Any], where: str, name: str, least: int = 1) -> int:
    """A whole number of config.json, at least `least`; true and 1.0 are not whole numbers."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LIMIT:
        raise BundleConfigError(
            f"config.json: {where}.{name} is {value!r}; expected a whole number from {least} to {_LIMIT}"
        )
    return value


def flag(fields: Mapping[str, Any], where: str, name: str) -> bool:
    """A field of config.json that says yes or no."""
    value = fields.get(name)
    if not isinstance(value, bool):
        raise BundleConfigError(f"config.json: {where}.{name} is {value!r}; expected true or false")
    return value


def _weight(layer: LinearLayer, kind: LinearKind) -> dict[str, TensorSpec]:
    if kind.kind == "dense":
        parts = dense_layout.shapes(layer.inputs, layer.outputs, kind.precision)
        return {suffix: TensorSpec(*spec) for suffix, spec in parts.items()}
    cut = grid(layer.inputs, layer.outputs, kind.expansion)
    return {"kmatrix": TensorSpec("U32", (cut.rows, cut.cols, words(cut.stored, kind.width)))}


class SiteWidths(Protocol):
    """What the sizes of the linear layers follow from."""

    @property
    def d_model(self) -> int: ...
    @property
    def d_ffn(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def glu(self) -> bool: ...


def site_sizes(shape: SiteWidths, site: str, taps: int) -> tuple[int, int]:
    """Inputs and outputs of a site's linear layer in a layer whose convolution has `taps` taps."""
    d = shape.d_model
    sizes = {
        "conv_in": (d, 2 * d if shape.glu else d),
        "kernel": (d, shape.heads * taps),
        "ffn_in": (d, shape.d_ffn),
        "ffn_out": (shape.d_ffn, d),
    }
    return sizes.get(site, (d, d))


def _numbers(spec: TensorSpec) -> int:
    """Numbers in a tensor; a word of a K-matrix holds two."""
    return math.prod(spec.shape) * (2 if spec.dtype == "U32" else 1)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BundleConfigError(f"config.json: {where} is {value!r}; expected an object with named fields")
    return value


def _kernels(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = fields.get(name)
    good = isinstance(value, list) and value and all(_is_odd(taps) for taps in value)
    if not good or not isinstance(value, list):
        raise BundleConfigError(
            f"config.json: architecture.{name} is {value!r}; expected a list of odd kernel sizes, one a layer"
        )
    return tuple(value)


def _is_odd(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1023 and value % 2 == 1


def _shortlist(raw: Any) -> ShortlistSize | None:
    if raw is None:
        return None
    fields = _mapping(raw, "architecture.shortlist")
    where = "architecture.shortlist"
    return ShortlistSize(whole(fields, where, "tokens", least=0), whole(fields, where, "always", least=0))


def _linear(raw: Any) -> dict[str, LinearKind]:
    fields = _mapping(raw, "architecture.linear")
    if set(fields) != set(SITES):
        raise BundleConfigError(
            f"config.json: architecture.linear names the sites {sorted(fields)}; expected exactly "
            f"{sorted(SITES)}"
        )
    return {site: _linear_kind(fields[site], f"architecture.linear.{site}") for site in SITES}


def _linear_kind(raw: Any, where: str) -> LinearKind:
    fields = _mapping(raw, where)
    kind = fields.get("kind")
    if kind == "dense":
        precision = fields.get("precision", "float16")
        if precision not in dense_layout.PRECISIONS:
            raise BundleConfigError(
                f"config.json: {where}.precision is {precision!r}; expected one of "
                f"{', '.join(dense_layout.PRECISIONS)}"
            )
        return LinearKind("dense", precision=precision)
    if kind != "kmatrix":
        raise BundleConfigError(f"config.json: {where}.kind is {kind!r}; expected 'kmatrix' or 'dense'")
    width, expansion = whole(fields, where, "width"), whole(fields, where, "expansion")
    if width > 64 or expansion > 64 or expansion & (expansion - 1):
        raise BundleConfigError(
            f"config.json: {where} has width {width} and expansion {expansion}; expected at most 64 each, "
            "and an expansion that is a power of two"
        )
    return LinearKind("kmatrix", width, expansion)
