"""DynamicConv encoder-decoder in torch (Wu et al. 2019), every linear layer K or dense by configuration.

The formulas are in docs/design.md, "The model"; the engine computes the same. Shapes: (batch, time, channel).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kserve.architecture import SITES
from kserve.kmatrix import KLinear, materialized
from kserve.tokenizer import BEGIN, END, PADDING, UNKNOWN
from kserve.train.ops import Dropout, SmoothedCrossEntropy, dynamic_convolution, relu

NEVER_PRODUCED = (UNKNOWN, BEGIN, PADDING)


@dataclass(frozen=True)
class LinearSpec:
    """How the linear layers of one site are made."""

    kind: str = "kmatrix"
    width: int = 1
    expansion: int = 1

    def make(self, in_features: int, out_features: int) -> nn.Module:
        """Build the layer; raises ValueError for an unknown kind."""
        if self.kind == "kmatrix":
            return KLinear(in_features, out_features, width=self.width, expansion=self.expansion)
        if self.kind == "dense":
            layer = nn.Linear(in_features, out_features)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            return layer
        raise ValueError(f"linear kind {self.kind!r} is unknown; expected 'kmatrix' or 'dense'")


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model; `to_dict` gives the `architecture` entry of a bundle's config.json."""

    vocab_size: int
    d_model: int
    d_ffn: int
    heads: int
    encoder_kernels: tuple[int, ...]
    decoder_kernels: tuple[int, ...]
    linear: dict[str, LinearSpec]
    glu: bool = True
    max_positions: int = 512

    def __post_init__(self) -> None:
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} must be even and divisible by heads={self.heads}")
        if any(k < 1 or k % 2 == 0 for k in self.encoder_kernels + self.decoder_kernels):
            raise ValueError("kernel sizes must be odd and positive")
        if set(self.linear) != set(SITES):
            raise ValueError(f"linear sites {sorted(self.linear)}; expected {sorted(SITES)}")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in ("vocab_size", "d_model", "d_ffn", "heads")}
        linear = {
            site: {"kind": "dense"}
            if spec.kind == "dense"
            else {"kind": spec.kind, "width": spec.width, "expansion": spec.expansion}
            for site, spec in self.linear.items()
        }
        return {
            "type": "dynamicconv",
            **plain,
            "encoder_kernels": list(self.encoder_kernels),
            "decoder_kernels": list(self.decoder_kernels),
            "glu": self.glu,
            "max_positions": self.max_positions,
            "linear": linear,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Inverse of to_dict."""
        fields = {key: value for key, value in data.items() if key != "type"}
        fields["encoder_kernels"] = tuple(fields["encoder_kernels"])
        fields["decoder_kernels"] = tuple(fields["decoder_kernels"])
        # A dense layer's precision is how a bundle stores it; in torch all is float32.
        fields["linear"] = {
            site: LinearSpec(**{key: value for key, value in spec.items() if key != "precision"})
            for site, spec in fields["linear"].items()
        }
        return cls(**fields)


def sinusoids(positions: int, width: int) -> Tensor:
    """Position table (positions, width): sines in the first half of the channels, cosines in the second."""
    half = width // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / max(half - 1, 1)))
    angle = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * rate
    return torch.cat((angle.sin(), angle.cos()), dim=1).float()


class Layer(nn.Module):
    """Convolution block and feed-forward block; an encoder layer as it stands."""

    def __init__(self, arch: Architecture, taps: int, dropout: float, causal: bool = False) -> None:
        super().__init__()
        d = arch.d_model
        self.heads, self.taps, self.glu = arch.heads, taps, arch.glu
        self.left = taps - 1 if causal else (taps - 1) // 2
        self.conv_norm = nn.LayerNorm(d)
        self.conv_in = arch.linear["conv_in"].make(d, 2 * d if arch.glu else d)
        self.kernel = arch.linear["kernel"].make(d, arch.heads * taps)
        self.conv_out = arch.linear["conv_out"].make(d, d)
        self.ffn_norm = nn.LayerNorm(d)
        self.ffn_in = arch.linear["ffn_in"].make(d, arch.d_ffn)
        self.ffn_out = arch.linear["ffn_out"].make(arch.d_ffn, d)
        self.dropout = Dropout(dropout)

    def _convolution_inputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution's input (batch, time, d) and kernels (batch, time, heads, taps)."""
        u = self.conv_in(self.conv_norm(x))
        if self.glu:
            u = functional.glu(u, -1)
        kernels = self.kernel(u).view(*u.shape[:-1], self.heads, self.taps)
        return u, kernels.softmax(-1)

    def convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The block over whole sentences; mask (batch, time, 1) is zero at padding."""
        u, kernels = self._convolution_inputs(x)
        if mask is not None:
            u = u * mask.to(u.dtype)
        return x + self.dropout(self.conv_out(dynamic_convolution(u, kernels, self.left)))

    def convolve_step(self, x: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """One causal step.

        Args:
            x: (batch, 1, d).
            history: (batch, taps - 1, d), the earlier inputs of the convolution, zero before the start.

        Returns:
            The block's output (batch, 1, d) and the next history.
        """
        u, kernels = self._convolution_inputs(x)
        window = torch.cat((history, u), dim=1)
        by_head = window.view(*window.shape[:2], self.heads, -1)
        y = torch.einsum("bthc,bht->bhc", by_head, kernels[:, 0]).reshape(x.shape)
        return x + self.conv_out(y), window[:, 1:]

    def feed_forward(self, x: Tensor) -> Tensor:
        """The feed-forward block over (batch, time, d)."""
        hidden = relu(self.ffn_in(self.ffn_norm(x)))
        return x + self.dropout(self.ffn_out(hidden))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, time, d) to (batch, time, d)."""
        return self.feed_forward(self.convolve(x, mask))


class DecoderLayer(Layer):
    """Causal convolution block, attention over the encoder's output, feed-forward block."""

    def __init__(self, arch: Architecture, taps: int, dropout: float) -> None:
        super().__init__(arch, taps, dropout, causal=True)
        d = arch.d_model
        self.attn_norm = nn.LayerNorm(d)
        self.query = arch.linear["query"].make(d, d)
        self.key = arch.linear["key"].make(d, d)
        self.value = arch.linear["value"].make(d, d)
        self.attn_out = arch.linear["attn_out"].make(d, d)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(batch, time, d) to (batch, heads, time, d_head)."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def keys_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's output, each (batch, heads, source time, d_head)."""
        return self._split_heads(self.key(encoded)), self._split_heads(self.value(encoded))

    def attend(self, x: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """The attention block; mask (batch, 1, 1, source time) is True at real tokens."""
        query = self._split_heads(self.query(self.attn_norm(x)))
        y = functional.scaled_dot_product_attention(query, *keys_values, attn_mask=mask)
        return x + self.dropout(self.attn_out(y.transpose(1, 2).reshape(x.shape)))


AnyLayer = TypeVar("AnyLayer", bound=Layer)


class Stack(nn.Module, Generic[AnyLayer]):
    """Layers and the norm after them."""

    def __init__(self, layers: list[AnyLayer], d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)

    def __iter__(self) -> Iterator[AnyLayer]:
        return cast(Iterator[AnyLayer], iter(self.layers))


@dataclass
class Source:
    """An encoded batch: what the decoder needs of it."""

    keys_values: list[tuple[Tensor, Tensor]]
    mask: Tensor | None


class DynamicConvModel(nn.Module):
    """Encoder-decoder with tied embeddings.

    Args:
        arch: Sizes.
        dropout: Probability for the embeddings and each block's output.
    """

    positions: Tensor

    def __init__(self, arch: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        d = arch.d_model
        self.embedding = nn.Embedding(arch.vocab_size, d)
        nn.init.normal_(self.embedding.weight, std=d**-0.5)
        self.encoder = Stack([Layer(arch, taps, dropout) for taps in arch.encoder_kernels], d)
        self.decoder = Stack([DecoderLayer(arch, taps, dropout) for taps in arch.decoder_kernels], d)
        self.dropout = Dropout(dropout)
        self.register_buffer("positions", sinusoids(arch.max_positions, d), persistent=False)

    def embed(self, ids: Tensor, start: int = 0) -> Tensor:
        """Ids (batch, time) at positions start, start + 1, ... to (batch, time, d)."""
        positions = self.positions[start : start + ids.shape[1]]
        return self.dropout(self.embedding(ids) * self.arch.d_model**0.5 + positions)

    def encode(self, source: Tensor) -> Tensor:
        """Source ids (batch, time), padded with 3, to encoder states (batch, time, d)."""
        real = source != PADDING
        mask = None if bool(real.all()) else real.unsqueeze(-1).float()
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, mask)
        return self.encoder.norm(x)

    def prepare(self, source: Tensor) -> Source:
        """Encode source ids (batch, time) and compute every decoder layer's keys and values."""
        real = source != PADDING
        encoded = self.encode(source)
        mask = None if bool(real.all()) else real[:, None, None, :]
        return Source([layer.keys_values(encoded) for layer in self.decoder], mask)

    def decode(self, source: Source, target: Tensor) -> Tensor:
        """Hidden states (batch, time, d) of the decoder for target inputs (batch, time)."""
        x = self.embed(target)
        for layer, keys_values in zip(self.decoder, source.keys_values, strict=True):
            x = layer.feed_forward(layer.attend(layer.convolve(x, None), keys_values, source.mask))
        return self.decoder.norm(x)

    def step(self, source: Source, ids: Tensor, position: int, histories: list[Tensor]) -> Tensor:
        """One incremental decoder step.

        Args:
            source: From `prepare`.
            ids: (batch,), the tokens at `position`.
            position: Counted from 0, the begin token's.
            histories: One per layer, from `start_histories`; replaced by the next ones.

        Returns:
            Hidden states (batch, d).
        """
        x = self.embed(ids.unsqueeze(1), position)
        for index, layer in enumerate(self.decoder):
            x, histories[index] = layer.convolve_step(x, histories[index])
            x = layer.feed_forward(layer.attend(x, source.keys_values[index], source.mask))
        return self.decoder.norm(x)[:, 0]

    def start_histories(self, batch: int) -> list[Tensor]:
        """Convolution inputs before the first step: zeros, (batch, taps - 1, d) per decoder layer."""
        weight = self.embedding.weight
        return [weight.new_zeros(batch, k - 1, self.arch.d_model) for k in self.arch.decoder_kernels]

    def loss(self, source: Tensor, target_in: Tensor, target_out: Tensor, smoothing: float) -> Tensor:
        """Label-smoothed loss and negative log-likelihood, each summed over the real target tokens: (2,)."""
        hidden = self.decode(self.prepare(source), target_in)
        real = target_out != PADDING
        table = self.embedding.weight
        return SmoothedCrossEntropy.apply(hidden[real], table, target_out[real], smoothing)

    @torch.inference_mode()
    def greedy(
        self, sources: list[list[int]], max_length_ratio: float = 2.0, max_length_extra: int = 10
    ) -> list[list[int]]:
        """Greedy translations of one batch of source id lists (each ending in 2), without begin and end."""
        self.eval()
        longest = max(len(ids) for ids in sources)
        device = self.embedding.weight.device
        padded = torch.full((len(sources), longest), PADDING, device=device)
        for row, source_ids in enumerate(sources):
            padded[row, : len(source_ids)] = torch.tensor(source_ids)
        limits = [
            min(self.arch.max_positions - 1, math.ceil(max_length_ratio * len(ids)) + max_length_extra)
            for ids in sources
        ]
        with materialized(self):
            return self._greedy_loop(padded, limits)

    def _greedy_loop(self, padded: Tensor, limits: list[int]) -> list[list[int]]:
        prepared = self.prepare(padded)
        histories = self.start_histories(len(limits))
        ids = torch.full((len(limits),), BEGIN, device=padded.device)
        outputs: list[list[int]] = [[] for _ in limits]
        running = set(range(len(limits)))
        for position in range(max(limits)):
            scores = self.step(prepared, ids, position, histories) @ self.embedding.weight.t()
            scores[:, list(NEVER_PRODUCED)] = -math.inf
            ids = scores.argmax(1)
            for row, token in enumerate(ids.tolist()):
                if row in running and token != END:
                    outputs[row].append(token)
                if token == END or position + 1 == limits[row]:
                    running.discard(row)
            if not running:
                break
        return outputs
