"""fairseq's LightConv and DynamicConv models (its `lightconv` family): options checked, weights renamed.

Both are one model with two kinds of convolution kernels: DynamicConv predicts them from each position,
LightConv has fixed ones, which are a predicted kernel whose weights are zero and whose bias is the fixed
kernel. Everything that this program's model cannot compute to the last term is refused by the option's
name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kserve.architecture import SITES
from kserve.convert.pickles import ConvertError, plain

# fairseq's ids of its four special symbols; positions are counted from the padding's on.
FAIRSEQ_BEGIN, FAIRSEQ_PADDING, FAIRSEQ_END, FAIRSEQ_UNKNOWN = 0, 1, 2, 3
_POSITION_OFFSET = FAIRSEQ_PADDING + 1

# What fairseq takes for an option that an old checkpoint does not have.
_DEFAULTS: Mapping[str, Any] = {
    "encoder_embed_dim": 512, "encoder_ffn_embed_dim": 2048, "encoder_layers": 7,
    "encoder_attention_heads": 8, "encoder_normalize_before": False, "encoder_learned_pos": False,
    "encoder_glu": True,
    "encoder_conv_type": "dynamic", "encoder_kernel_size_list": [3, 7, 15, 31, 31, 31, 31],
    "decoder_layers": 6, "decoder_normalize_before": False, "decoder_learned_pos": False, "decoder_glu": True,
    "decoder_conv_type": "dynamic", "decoder_kernel_size_list": [3, 7, 15, 31, 31, 31],
    "adaptive_softmax_cutoff": None, "share_all_embeddings": False, "weight_softmax": True,
    "no_token_positional_embeddings": False, "max_source_positions": 1024, "max_target_positions": 1024,
}  # fmt: skip
# Options that take another's value when they are absent.
_LIKE = {
    "decoder_embed_dim": "encoder_embed_dim", "decoder_ffn_embed_dim": "encoder_ffn_embed_dim",
    "decoder_attention_heads": "encoder_attention_heads", "encoder_conv_dim": "encoder_embed_dim",
    "decoder_conv_dim": "decoder_embed_dim", "decoder_output_dim": "decoder_embed_dim",
    "decoder_input_dim": "decoder_embed_dim",
}  # fmt: skip
# Pairs of options that this program has one number for, and values that it has no counterpart of.
_EQUAL = (
    ("encoder_embed_dim", "decoder_embed_dim"), ("encoder_embed_dim", "encoder_conv_dim"),
    ("decoder_embed_dim", "decoder_conv_dim"), ("decoder_embed_dim", "decoder_output_dim"),
    ("decoder_embed_dim", "decoder_input_dim"), ("encoder_ffn_embed_dim", "decoder_ffn_embed_dim"),
    ("encoder_attention_heads", "decoder_attention_heads"), ("encoder_glu", "decoder_glu"),
    ("encoder_normalize_before", "decoder_normalize_before"),
)  # fmt: skip
_WANTED: Mapping[str, tuple[Any, str]] = {
    "encoder_learned_pos": (False, "positions are sinusoids here"),
    "decoder_learned_pos": (False, "positions are sinusoids here"),
    "no_token_positional_embeddings": (False, "positions are always added here"),
    "adaptive_softmax_cutoff": (None, "the output layer is one table here"),
    "weight_softmax": (True, "convolution kernels are softmaxed here"),
    "share_all_embeddings": (
        True, "source, target and output share one table here; train with a joined dictionary and "
        "--share-all-embeddings",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The options of a checkpoint, with fairseq's defaults."""

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    training: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name in self.model:
            return self.model[name]
        return self[_LIKE[name]] if name in _LIKE else _DEFAULTS[name]

    def told(self, name: str) -> Any:
        """An option of training, or None where the checkpoint does not have it."""
        return {**self.training, **self.model}.get(name)

    @property
    def languages(self) -> tuple[str | None, str | None]:
        """Codes of source and target, where they are told."""
        found = {**self.model, **self.task}
        return found.get("source_lang"), found.get("target_lang")


def read_options(state: Mapping[str, Any]) -> Options:
    """The options of a checkpoint, which lie in `args` or, since fairseq 0.10, in `cfg`.

    Raises:
        ConvertError: there are none, or they are of another kind of model.
    """
    args, cfg = plain(state.get("args")), plain(state.get("cfg"))
    if isinstance(args, dict):
        options = Options(args, args, args)
    elif isinstance(cfg, dict) and isinstance(cfg.get("model"), dict):
        options = Options(cfg["model"], cfg.get("task") or {}, _training_options(cfg))
    else:
        raise ConvertError("the checkpoint has neither `args` nor `cfg`; expected one that fairseq wrote")
    name = options.model.get("arch") or options.model.get("_name") or ""
    if not str(name).startswith("lightconv"):
        raise ConvertError(
            f"the checkpoint is of the architecture {name!r}; this converts fairseq's lightconv family "
            "(LightConv and DynamicConv)"
        )
    return options


def _training_options(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of `cfg` that tell how a model was trained, in one."""
    result: dict[str, Any] = {}
    for group in ("optimization", "dataset", "criterion", "lr_scheduler"):
        result |= cfg.get(group) or {}
    return result


def updates(state: Mapping[str, Any]) -> int:
    """How many updates a checkpoint has had, as far as it tells."""
    history = state.get("optimizer_history") or [{}]
    found = history[-1].get("num_updates", 0) if isinstance(history[-1], dict) else 0
    return found if isinstance(found, int) else 0


def architecture(options: Options, vocab_size: int) -> dict[str, Any]:
    """The `architecture` entry of the model, every linear layer dense.

    Raises:
        ConvertError: an option asks for what the model cannot do; it is named.
    """
    for one, other in _EQUAL:
        if options[one] != options[other]:
            raise ConvertError(
                f"{one} is {options[one]!r} and {other} {options[other]!r}; they must be equal here"
            )
    for name, (wanted, why) in _WANTED.items():
        if options[name] != wanted:
            raise ConvertError(f"{name} is {options[name]!r}; {why}")
    return {
        "type": "dynamicconv",
        "vocab_size": vocab_size,
        "d_model": options["encoder_embed_dim"],
        "d_ffn": options["encoder_ffn_embed_dim"],
        "heads": options["encoder_attention_heads"],
        "encoder_kernels": _kernels(options, "encoder"),
        "decoder_kernels": _kernels(options, "decoder"),
        "glu": bool(options["encoder_glu"]),
        "max_positions": min(options["max_source_positions"], options["max_target_positions"]),
        "linear": {site: {"kind": "dense"} for site in SITES},
        "norm": "pre" if options["encoder_normalize_before"] else "post",
        "position_offset": _POSITION_OFFSET,
        "begin": "end",
    }


def _kernels(options: Options, side: str) -> list[int]:
    """One kernel size a layer; a list of one number stands for all."""
    sizes, layers = list(options[f"{side}_kernel_size_list"]), options[f"{side}_layers"]
    sizes = sizes * layers if len(sizes) == 1 else sizes
    if len(sizes) != layers or any(size % 2 == 0 for size in sizes):
        raise ConvertError(
            f"{side}_kernel_size_list is {sizes} with {side}_layers {layers}; expected an odd size for each "
            "layer (an even one is not centred in the encoder)"
        )
    return sizes


class Weights:
    """A state dict whose weights are taken once each, checked for shape and for NaN and infinity."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = {name: value for name, value in weights.items() if isinstance(value, Tensor)}

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def take(self, name: str, *shape: int) -> Tensor:
        """The weight in float32; raises ConvertError if it is missing or not as expected."""
        if name not in self._weights:
            raise ConvertError(f"the checkpoint has no weight {name}; its options ask for it")
        value = self._weights.pop(name).float()
        if value.shape != shape:
            raise ConvertError(f"{name} has shape {tuple(value.shape)}; its options ask for {shape}")
        if not torch.isfinite(value).all():
            raise ConvertError(f"{name} holds NaN or infinity; convert an earlier checkpoint")
        return value

    def finish(self) -> None:
        """Raise ConvertError if a weight is left that has no counterpart."""
        noise = ("version", "_float_tensor")  # buffers without weights
        left = sorted(name for name in self._weights if not name.endswith(noise))
        if left:
            raise ConvertError(
                f"weights without a counterpart here: {', '.join(left[:5])}"
                f"{' and others' if len(left) > 5 else ''}"
            )


def rename(weights: Mapping[str, Tensor], options: Options, arch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights by this program's names; rows of the embedding keep fairseq's order.

    Raises:
        ConvertError: a weight is missing, left over, of another shape, or not finite.
    """
    source = Weights(weights)
    result = {
        "embedding.weight": source.take("encoder.embed_tokens.weight", arch["vocab_size"], arch["d_model"])
    }
    shared = source.take("decoder.embed_tokens.weight", arch["vocab_size"], arch["d_model"])
    if not torch.equal(shared, result["embedding.weight"]):
        raise ConvertError("the tables of source and target differ, though share_all_embeddings is set")
    for name in ("decoder.embed_out", "decoder.output_projection.weight"):  # the same table once more
        if name in source:
            source.take(name, arch["vocab_size"], arch["d_model"])
    for side in ("encoder", "decoder"):
        for name, value in _stack(source, side, options, arch):
            result[name] = value
    source.finish()
    return result


def _stack(
    source: Weights, side: str, options: Options, arch: Mapping[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    """The weights of the encoder or the decoder.

    With norms after the blocks, a block's norm is called by the block that follows, whose input it makes; the
    last one is the stack's own, and the first block has none.
    """
    d = arch["d_model"]
    norms: list[tuple[str, str]] = []  # this program's norms in order of application, and fairseq's
    for index, taps in enumerate(arch[f"{side}_kernels"]):
        there, here = f"{side}.layers.{index}", f"{side}.layers.{index}"
        yield from _convolution(source, (there, here), taps, arch, options[f"{side}_conv_type"])
        names = [("conv_norm", "layer_norms.0" if side == "encoder" else "conv_layer_norm")]
        if side == "decoder":
            yield from _attention(source, (there, here), d)
            names.append(("attn_norm", "encoder_attn_layer_norm"))
        names.append(("ffn_norm", "layer_norms.1" if side == "encoder" else "final_layer_norm"))
        norms += [(f"{here}.{ours}", f"{there}.{theirs}") for ours, theirs in names]
        yield from _linear(source, f"{there}.fc1", f"{here}.ffn_in", (arch["d_ffn"], d))
        yield from _linear(source, f"{there}.fc2", f"{here}.ffn_out", (d, arch["d_ffn"]))
    ours = [*(one for one, _ in norms), f"{side}.norm"]
    theirs = [other for _, other in norms]
    theirs = [*theirs, f"{side}.layer_norm"] if arch["norm"] == "pre" else ["", *theirs]
    for one, other in zip(ours, theirs, strict=True):
        if other:
            yield f"{one}.weight", source.take(f"{other}.weight", d)
            yield f"{one}.bias", source.take(f"{other}.bias", d)


def _linear(source: Weights, there: str, here: str, shape: tuple[int, int]) -> Iterator[tuple[str, Tensor]]:
    yield f"{here}.weight", source.take(f"{there}.weight", *shape)
    yield f"{here}.bias", source.take(f"{there}.bias", shape[0])


def _convolution(
    source: Weights, names: tuple[str, str], taps: int, arch: Mapping[str, Any], kind: str
) -> Iterator[tuple[str, Tensor]]:
    """The linear layers around a convolution, and the one that makes its kernels."""
    there, here = names
    d, kernels = arch["d_model"], arch["heads"] * taps
    yield from _linear(source, f"{there}.linear1", f"{here}.conv_in", (2 * d if arch["glu"] else d, d))
    if kind == "lightweight":
        weight = torch.zeros(kernels, d)
        bias = source.take(f"{there}.conv.weight", arch["heads"], 1, taps).flatten()
    else:
        weight = source.take(f"{there}.conv.weight_linear.weight", kernels, d)
        name = f"{there}.conv.weight_linear.bias"
        bias = source.take(name, kernels) if name in source else torch.zeros(kernels)
    yield f"{here}.kernel.weight", weight
    yield f"{here}.kernel.bias", bias
    out = dict(_linear(source, f"{there}.linear2", f"{here}.conv_out", (d, d)))
    for name in (f"{there}.conv.conv_bias", f"{there}.conv.bias"):
        if name in source:  # a bias between the convolution and the layer after it moves into that layer's
            out[f"{here}.conv_out.bias"] += out[f"{here}.conv_out.weight"] @ source.take(name, d)
    yield from out.items()


def _attention(source: Weights, names: tuple[str, str], d: int) -> Iterator[tuple[str, Tensor]]:
    """The four linear layers of the attention; older files have three of them in one."""
    there, here = f"{names[0]}.encoder_attn", names[1]
    sites = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    if f"{there}.in_proj_weight" in source:
        weights = torch.chunk(source.take(f"{there}.in_proj_weight", 3 * d, d), 3)
        biases = torch.chunk(source.take(f"{there}.in_proj_bias", 3 * d), 3)
        for site, weight, bias in zip(sites, weights, biases, strict=True):
            yield f"{here}.{site}.weight", weight
            yield f"{here}.{site}.bias", bias
    else:
        for site, part in sites.items():
            yield from _linear(source, f"{there}.{part}", f"{here}.{site}", (d, d))
    yield from _linear(source, f"{there}.out_proj", f"{here}.attn_out", (d, d))
