"""The model of docs/design.md in NumPy and float64: slow, plain, and independent of the engine's C++.

Small random models come as the tensors of a bundle, so engine and reference read the very same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kserve import _engine, dense_layout, runtime_layout

Floats = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]

UNKNOWN, BEGIN, END, PADDING = range(4)
NEVER_PRODUCED = (UNKNOWN, BEGIN, PADDING)
SITES = ("conv_in", "conv_out", "kernel", "query", "key", "value", "attn_out", "ffn_in", "ffn_out")


@dataclass(frozen=True)
class Site:
    """How one linear site is stored."""

    kind: str = "kmatrix"
    width: int = 1
    expansion: int = 1


@dataclass(frozen=True)
class Sizes:
    """The architecture of a test model; sites that are not named are `default_site`."""

    vocab_size: int = 61
    d_model: int = 32
    d_ffn: int = 64
    heads: int = 4
    encoder_kernels: tuple[int, ...] = (3, 5)
    decoder_kernels: tuple[int, ...] = (3, 7)
    glu: bool = True
    max_positions: int = 48
    default_site: Site = Site()
    sites: Mapping[str, Site] = field(default_factory=dict)

    def site(self, name: str) -> Site:
        return self.sites.get(name, self.default_site)

    def shape(self, name: str, taps: int) -> tuple[int, int]:
        """(in, out) of a site in a layer whose convolution has `taps` taps."""
        d = self.d_model
        special = {
            "conv_in": (d, 2 * d if self.glu else d),
            "kernel": (d, self.heads * taps),
            "ffn_in": (d, self.d_ffn),
            "ffn_out": (self.d_ffn, d),
        }
        return special.get(name, (d, d))

    def architecture(self) -> _engine.Architecture:
        """The same sizes for the engine."""
        linear = {}
        for name in SITES:
            site = self.site(name)
            linear[name] = _engine.LinearSpec(site.kind, width=site.width, expansion=site.expansion)
        return _engine.Architecture(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            d_ffn=self.d_ffn,
            heads=self.heads,
            encoder_kernels=list(self.encoder_kernels),
            decoder_kernels=list(self.decoder_kernels),
            glu=self.glu,
            max_positions=self.max_positions,
            linear=linear,
        )


def random_tensors(sizes: Sizes, seed: int) -> Tensors:
    """The tensors of a bundle with random weights, scaled so that every part of the model matters."""
    rng = np.random.default_rng(seed)
    d = sizes.d_model
    tensors: Tensors = {
        "embedding.table": rng.integers(-127, 128, (sizes.vocab_size, d), dtype=np.int8),
        "embedding.scale": (rng.uniform(0.5, 1.0, sizes.vocab_size) / (73 * math.sqrt(d))).astype(np.float32),
    }
    tensors["output.panels"] = dense_layout.byte_panels(tensors["embedding.table"])
    # A large end row, so that sentences end at different places.
    tensors["embedding.scale"][END] *= np.float32(3)
    for stack in ("encoder", "decoder"):
        for layer, taps in enumerate(getattr(sizes, f"{stack}_kernels")):
            for name in SITES:
                if stack == "encoder" and name in ("query", "key", "value", "attn_out"):
                    continue
                _add_linear(
                    tensors, f"{stack}.{layer}.{name}", sizes.site(name), sizes.shape(name, taps), rng
                )
    # Random signs, or the tied output table would make the model repeat its input token for ever.
    signs = rng.choice(np.array([-1.5, 1.5], np.float32), d)
    tensors["decoder.norm.gain"] = rng.uniform(0.6, 1.4, d).astype(np.float32) * signs
    tensors["decoder.norm.bias"] = rng.normal(0, 0.1, d).astype(np.float32)
    return tensors


def _add_linear(
    tensors: Tensors, name: str, site: Site, shape: tuple[int, int], rng: np.random.Generator
) -> None:
    inputs, outputs = shape
    tensors[f"{name}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    if site.kind == "dense":
        weight = rng.normal(0, 1.5 / math.sqrt(inputs), (outputs, inputs))
        tensors.update(
            {f"{name}.{part}": array for part, array in dense_layout.pack(weight, "float16").items()}
        )
        return
    grid = runtime_layout.grid(inputs, outputs, site.expansion)
    log_size = grid.inner.bit_length() - 1
    angles = rng.uniform(0, 2 * math.pi, (grid.rows * grid.cols, 2 * site.width, log_size, grid.inner // 2))
    cos, sin = np.cos(angles), np.sin(angles)
    rotations = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    rotations[:, 0, 0] *= 1.5 * math.sqrt(site.expansion)
    tensors[f"{name}.kmatrix"] = runtime_layout.pack_layer(rotations, grid.rows, grid.cols)


@dataclass(frozen=True)
class Guess:
    """One hypothesis of the reference search."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    truncated: bool = False

    @property
    def total(self) -> float:
        return sum(self.log_probabilities)

    def score(self, length_penalty: float) -> float:
        length = len(self.tokens) + (0 if self.truncated else 1)
        return self.total / math.pow(length, length_penalty)


class ReferenceModel:
    """Float64 twin of an engine that was built from the same sizes and tensors."""

    def __init__(self, sizes: Sizes, tensors: Tensors) -> None:
        self.sizes = sizes
        self.tensors = tensors
        scale = tensors["embedding.scale"].astype(np.float64)
        self.table: Floats = tensors["embedding.table"].astype(np.float64) * scale[:, None]
        self.attention: dict[
            str, Floats
        ] = {}  # decoder layer → (time, source) of the last call, heads averaged
        self._matrices: dict[str, Floats] = {}

    def encode(self, source: list[int]) -> Floats:
        """Encoder states (time, d)."""
        x = self._embed(np.array(source))
        for layer, taps in enumerate(self.sizes.encoder_kernels):
            x = self._convolve(f"encoder.{layer}", taps, (taps - 1) // 2, x)
            x = self._feed_forward(f"encoder.{layer}", x)
        return _normalised(x)

    def log_probabilities(self, states: Floats, prefix: list[int]) -> Floats:
        """Log-probabilities (vocab,) of the token after `prefix`, which begins with the begin token."""
        x = self._embed(np.array(prefix))
        for layer, taps in enumerate(self.sizes.decoder_kernels):
            x = self._convolve(f"decoder.{layer}", taps, taps - 1, x)
            x = self._attend(f"decoder.{layer}", x, states)
            x = self._feed_forward(f"decoder.{layer}", x)
        hidden = _normalised(x[-1]) * self.tensors["decoder.norm.gain"] + self.tensors["decoder.norm.bias"]
        logits: Floats = self.table @ hidden
        top = logits.max()
        result: Floats = logits - (top + np.log(np.exp(logits - top).sum()))
        return result

    def translate(self, source: list[int], beam: int, length_penalty: float, cap: int) -> list[Guess]:
        """Beam search as in docs/design.md, best first; `beam` 1 is greedy."""
        states = self.encode(source)
        live = [Guess((), ())]
        finished: list[Guess] = []
        for position in range(cap):
            options = []
            for row, guess in enumerate(live):
                scores = self.log_probabilities(states, [BEGIN, *guess.tokens])
                allowed = [token for token in range(len(scores)) if token not in NEVER_PRODUCED]
                options += [(-(guess.total + scores[t]), t, row, float(scores[t])) for t in allowed]
            options = sorted(options)[: 1 if beam == 1 else 2 * beam]
            finished += [
                Guess(live[row].tokens, (*live[row].log_probabilities, score))
                for _, token, row, score in options[:beam]
                if token == END
            ]
            at_cap = position + 1 == cap
            live = [
                Guess((*live[row].tokens, token), (*live[row].log_probabilities, score), at_cap)
                for _, token, row, score in options
                if token != END
            ][:beam]
            if len(finished) >= beam or not live:
                break
            if at_cap:
                finished += live
        return sorted(finished, key=lambda guess: -guess.score(length_penalty))

    def _matrix(self, name: str, shape: tuple[int, int]) -> Floats:
        if name not in self._matrices:
            site = self.sizes.site(name.rsplit(".", 1)[1])
            if site.kind == "dense":
                matrix = dense_layout.unpack({"dense": self.tensors[f"{name}.dense"]}, shape[1], shape[0])
            else:
                packed = self.tensors[f"{name}.kmatrix"]
                matrix = runtime_layout.unpack_layer(packed, shape, site.width, site.expansion)
            self._matrices[name] = matrix
        return self._matrices[name]

    def _linear(self, prefix: str, site: str, x: Floats, taps: int = 1) -> Floats:
        name = f"{prefix}.{site}"
        result: Floats = x @ self._matrix(name, self.sizes.shape(site, taps)).T + self.tensors[f"{name}.bias"]
        return result

    def _embed(self, ids: NDArray[np.int64]) -> Floats:
        half = self.sizes.d_model // 2
        rates = np.exp(-math.log(10000) * np.arange(half) / (half - 1))
        angles = np.arange(len(ids))[:, None] * rates
        positions = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        result: Floats = self.table[ids] * math.sqrt(self.sizes.d_model) + positions
        return result

    def _convolve(self, prefix: str, taps: int, left: int, x: Floats) -> Floats:
        d, heads = self.sizes.d_model, self.sizes.heads
        u = self._linear(prefix, "conv_in", _normalised(x))
        if self.sizes.glu:
            u = u[:, :d] / (1 + np.exp(-u[:, d:]))
        weights = _softmax(self._linear(prefix, "kernel", u, taps).reshape(-1, heads, taps))
        if prefix.startswith("decoder"):
            u = _halved(u)
        padded = np.pad(u, ((left, taps - 1 - left), (0, 0)))
        mixed = np.zeros_like(u)
        for j in range(taps):
            mixed += np.repeat(weights[:, :, j], d // heads, axis=1) * padded[j : j + len(u)]
        return x + self._linear(prefix, "conv_out", mixed)

    def _attend(self, prefix: str, x: Floats, states: Floats) -> Floats:
        heads = self.sizes.heads

        def split(rows: Floats) -> Floats:  # (heads, time, d_head)
            result: Floats = rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)
            return result

        query = split(self._linear(prefix, "query", _normalised(x)))
        key, value = (split(_halved(self._linear(prefix, site, states))) for site in ("key", "value"))
        weights = _softmax(query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1]))
        self.attention[prefix] = weights.mean(0)
        mixed = (weights @ value).transpose(1, 0, 2).reshape(x.shape)
        return x + self._linear(prefix, "attn_out", mixed)

    def _feed_forward(self, prefix: str, x: Floats) -> Floats:
        hidden = self._linear(prefix, "ffn_in", _normalised(x))
        return x + self._linear(prefix, "ffn_out", np.maximum(hidden, 0))


def _halved(x: Floats) -> Floats:
    """What the decoder keeps from step to step is kept in half precision."""
    return x.astype(np.float16).astype(np.float64)


def _normalised(x: Floats) -> Floats:
    """A layer norm without gain and bias, which are part of the layers behind it."""
    centred = x - x.mean(-1, keepdims=True)
    result: Floats = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return result


def _softmax(x: Floats) -> Floats:
    raised = np.exp(x - x.max(-1, keepdims=True))
    result: Floats = raised / raised.sum(-1, keepdims=True)
    return result
