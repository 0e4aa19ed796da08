"""A LightConv or DynamicConv model by fairseq's formulas and names, plain and slow, with random weights.

Written from the formulas alone and sharing nothing with this program's model: sentences one at a time,
windows cut out of the padded input one position at a time.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

PAD, EOS = 1, 2


@dataclass(frozen=True)
class Sizes:
    """Options under fairseq's names; `extra` holds those that a test adds or overrides."""

    vocab: int = 40
    d: int = 16
    ffn: int = 24
    heads: int = 4
    encoder_kernels: tuple[int, ...] = (3, 7)
    decoder_kernels: tuple[int, ...] = (5, 3, 3)
    conv_type: str = "dynamic"
    glu: bool = True
    normalize_before: bool = False
    old_attention: bool = False  # one matrix for query, key and value, as before fairseq 0.9
    conv_bias: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def namespace(self) -> argparse.Namespace:
        options: dict[str, Any] = {"arch": "lightconv_iwslt_de_en", "source_lang": "de", "target_lang": "en"}
        for side, kernels in (("encoder", self.encoder_kernels), ("decoder", self.decoder_kernels)):
            options |= {
                f"{side}_embed_dim": self.d,
                f"{side}_conv_dim": self.d,
                f"{side}_ffn_embed_dim": self.ffn,
                f"{side}_layers": len(kernels),
                f"{side}_attention_heads": self.heads,
                f"{side}_kernel_size_list": list(kernels),
                f"{side}_conv_type": self.conv_type,
                f"{side}_glu": self.glu,
                f"{side}_normalize_before": self.normalize_before,
                f"{side}_learned_pos": False,
            }
        options |= {
            "share_all_embeddings": True,
            "weight_softmax": True,
            "dropout": 0.3,
            "label_smoothing": 0.1,
        }
        options |= {"lr": [0.0005], "warmup_updates": 4000, "max_tokens": 4000}
        return argparse.Namespace(**(options | self.extra))


class RandomWeights:
    """Fills a state dict under fairseq's names."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        self.sizes = sizes
        self.weights: dict[str, Tensor] = {}
        self._generator = torch.Generator().manual_seed(seed)

    def fill(self, name: str, *shape: int, scale: float = 0.0) -> None:
        values = torch.randn(shape, generator=self._generator)
        self.weights[name] = values * (scale or shape[-1] ** -0.5)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
        self.fill(f"{name}.weight", outputs, inputs)
        if bias:
            self.fill(f"{name}.bias", outputs, scale=0.2)

    def norm(self, name: str) -> None:
        self.weights[f"{name}.weight"] = torch.rand(self.sizes.d, generator=self._generator) + 0.5
        self.fill(f"{name}.bias", self.sizes.d, scale=0.3)

    def stack(self, side: str, kernels: tuple[int, ...]) -> None:
        self.weights[f"{side}.version"] = torch.tensor([2.0])
        self.weights[f"{side}.embed_positions._float_tensor"] = torch.zeros(1)
        if self.sizes.normalize_before:
            self.norm(f"{side}.layer_norm")
        for i, taps in enumerate(kernels):
            self.layer(f"{side}.layers.{i}", taps)
            if side == "encoder":
                self.norm(f"encoder.layers.{i}.layer_norms.0")
                self.norm(f"encoder.layers.{i}.layer_norms.1")
            else:
                self.attention(f"decoder.layers.{i}")

    def layer(self, name: str, taps: int) -> None:
        sizes = self.sizes
        self.linear(f"{name}.linear1", 2 * sizes.d if sizes.glu else sizes.d, sizes.d)
        self.linear(f"{name}.linear2", sizes.d, sizes.d)
        if sizes.conv_type == "lightweight":
            self.fill(f"{name}.conv.weight", sizes.heads, 1, taps, scale=1.0)
        else:
            self.linear(f"{name}.conv.weight_linear", sizes.heads * taps, sizes.d, bias=False)
        if sizes.conv_bias:
            self.fill(f"{name}.conv.conv_bias", sizes.d, scale=0.5)
        self.linear(f"{name}.fc1", sizes.ffn, sizes.d)
        self.linear(f"{name}.fc2", sizes.d, sizes.ffn)

    def attention(self, name: str) -> None:
        for norm in ("conv_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"):
            self.norm(f"{name}.{norm}")
        name, d = f"{name}.encoder_attn", self.sizes.d
        if self.sizes.old_attention:
            self.fill(f"{name}.in_proj_weight", 3 * d, d)
            self.fill(f"{name}.in_proj_bias", 3 * d, scale=0.2)
        else:
            for part in ("q_proj", "k_proj", "v_proj"):
                self.linear(f"{name}.{part}", d, d)
        self.linear(f"{name}.out_proj", d, d)


def random_weights(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """A state dict under fairseq's names."""
    made = RandomWeights(sizes, seed)
    made.fill("encoder.embed_tokens.weight", sizes.vocab, sizes.d)
    made.weights["encoder.embed_tokens.weight"][PAD] = 0
    made.weights["decoder.embed_tokens.weight"] = made.weights["encoder.embed_tokens.weight"].clone()
    made.stack("encoder", sizes.encoder_kernels)
    made.stack("decoder", sizes.decoder_kernels)
    return made.weights


class FairseqModel:
    """Logits of one sentence pair in float64."""

    def __init__(self, sizes: Sizes, weights: dict[str, Tensor]) -> None:
        self.sizes = sizes
        self.weights = {name: value.double() for name, value in weights.items()}

    def logits(self, source: list[int], target: list[int]) -> Tensor:
        """(target length + 1, vocabulary): what follows the start and each token of the target.

        Ids are fairseq's; the source ends in the end token, with which the decoder starts too.
        """
        x = self._embed(source)
        for i, taps in enumerate(self.sizes.encoder_kernels):
            x = self._encoder_layer(x, f"encoder.layers.{i}", taps)
        encoded = self._stack_norm(x, "encoder")
        y = self._embed([EOS, *target])
        for i, taps in enumerate(self.sizes.decoder_kernels):
            y = self._decoder_layer(y, encoded, f"decoder.layers.{i}", taps)
        return self._stack_norm(y, "decoder") @ self.weights["decoder.embed_tokens.weight"].T

    def greedy(self, source: list[int], barred: list[int], longest: int) -> list[int]:
        """The best token at each step; `barred` never come."""
        found: list[int] = []
        while len(found) < longest:
            scores = self.logits(source, found)[-1]
            scores[barred] = -math.inf
            token = int(scores.argmax())
            if token == EOS:
                break
            found.append(token)
        return found

    def _embed(self, ids: list[int]) -> Tensor:
        """Scaled embeddings plus sinusoids, whose positions begin after the padding's number."""
        d = self.sizes.d
        rows = math.sqrt(d) * self.weights["encoder.embed_tokens.weight"][ids]
        rates = torch.exp(torch.arange(d // 2).double() * -(math.log(10000) / (d // 2 - 1)))
        angles = torch.arange(PAD + 1, PAD + 1 + len(ids)).double()[:, None] * rates
        return rows + torch.cat([angles.sin(), angles.cos()], dim=1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return functional.layer_norm(x, (self.sizes.d,), gain, bias, 1e-5)

    def _stack_norm(self, x: Tensor, side: str) -> Tensor:
        return self._norm(x, f"{side}.layer_norm") if self.sizes.normalize_before else x

    def _block(self, x: Tensor, norm: str, function: Any) -> Tensor:
        if self.sizes.normalize_before:
            result: Tensor = x + function(self._norm(x, norm))
            return result
        return self._norm(x + function(x), norm)

    def _encoder_layer(self, x: Tensor, name: str, taps: int) -> Tensor:
        x = self._block(x, f"{name}.layer_norms.0", lambda h: self._convolve(h, name, taps, taps // 2))
        return self._block(x, f"{name}.layer_norms.1", lambda h: self._feed_forward(h, name))

    def _decoder_layer(self, x: Tensor, encoded: Tensor, name: str, taps: int) -> Tensor:
        x = self._block(x, f"{name}.conv_layer_norm", lambda h: self._convolve(h, name, taps, taps - 1))
        x = self._block(x, f"{name}.encoder_attn_layer_norm", lambda h: self._attend(h, encoded, name))
        return self._block(x, f"{name}.final_layer_norm", lambda h: self._feed_forward(h, name))

    def _feed_forward(self, h: Tensor, name: str) -> Tensor:
        return self._linear(self._linear(h, f"{name}.fc1").relu(), f"{name}.fc2")

    def _convolve(self, h: Tensor, name: str, taps: int, left: int) -> Tensor:
        h = self._linear(h, f"{name}.linear1")
        if self.sizes.glu:
            value, gate = h.chunk(2, dim=1)
            h = value * gate.sigmoid()
        heads, size = self.sizes.heads, self.sizes.d // self.sizes.heads
        padded = functional.pad(h, (0, 0, left, taps - 1 - left))
        rows = []
        for t in range(len(h)):
            if self.sizes.conv_type == "dynamic":
                scores = self._linear(h[t], f"{name}.conv.weight_linear").view(heads, taps)
            else:
                scores = self.weights[f"{name}.conv.weight"].view(heads, taps)
            window = padded[t : t + taps].view(taps, heads, size)
            rows.append(torch.einsum("hk,khc->hc", scores.softmax(1), window).flatten())
        y = torch.stack(rows)
        if f"{name}.conv.conv_bias" in self.weights:
            y = y + self.weights[f"{name}.conv.conv_bias"]
        return self._linear(y, f"{name}.linear2")

    def _attend(self, h: Tensor, encoded: Tensor, name: str) -> Tensor:
        heads, size = self.sizes.heads, self.sizes.d // self.sizes.heads
        name = f"{name}.encoder_attn"
        if self.sizes.old_attention:
            w, b = self.weights[f"{name}.in_proj_weight"], self.weights[f"{name}.in_proj_bias"]
            d = self.sizes.d
            query, key, value = (
                given @ w[i * d : (i + 1) * d].T + b[i * d : (i + 1) * d]
                for i, given in enumerate((h, encoded, encoded))
            )
        else:
            query = self._linear(h, f"{name}.q_proj")
            key, value = self._linear(encoded, f"{name}.k_proj"), self._linear(encoded, f"{name}.v_proj")
        q, k, v = (part.view(-1, heads, size).transpose(0, 1) for part in (query, key, value))
        shares = (q * size**-0.5 @ k.transpose(1, 2)).softmax(2)
        return self._linear((shares @ v).transpose(0, 1).reshape(len(h), -1), f"{name}.out_proj")


def save(path: Path, sizes: Sizes, weights: dict[str, Tensor], legacy_file: bool = False) -> Path:
    """A checkpoint as fairseq writes it, with options in `args`."""
    state = {
        "args": sizes.namespace(),
        "model": weights,
        "optimizer_history": [{"criterion_name": "LabelSmoothedCrossEntropyCriterion", "num_updates": 1234}],
        "extra_state": {"epoch": 3, "val_loss": 4.5},
        "last_optimizer_state": {"state": {}, "param_groups": []},
    }
    torch.save(state, path, _use_new_zipfile_serialization=not legacy_file)
    return path


def with_option(sizes: Sizes, **options: Any) -> Sizes:
    return replace(sizes, extra=sizes.extra | options)
