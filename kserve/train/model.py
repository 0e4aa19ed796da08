"""DynamicConv encoder-decoder in torch (Wu et al. 2019), every linear layer K or dense by configuration.

The formulas are in docs/design.md, "The model"; the engine computes the same. Inside, a batch's sentences are
packed one after the other (`packing`): rows are tokens, (rows, channel).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kserve.kmatrix import materialized
from kserve.tokenizer import BEGIN, END, PADDING, UNKNOWN
from kserve.train import ops
from kserve.train.blocks import DecoderLayer, Layer, Stack, Stream
from kserve.train.packing import Packing, pack_ids
from kserve.train.spec import Architecture

NEVER_PRODUCED = (UNKNOWN, BEGIN, PADDING)


def sinusoids(positions: int, width: int) -> Tensor:
    """Position table (positions, width): sines in the first half of the channels, cosines in the second."""
    half = width // 2
    rate = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10000.0) / max(half - 1, 1)))
    angle = torch.arange(positions, dtype=torch.float64).unsqueeze(1) * rate
    return torch.cat((angle.sin(), angle.cos()), dim=1).float()


@dataclass
class Source:
    """An encoded batch: what the decoder needs of it. Keys and values of each layer are (rows, d)."""

    keys_values: list[tuple[Tensor, Tensor]]
    packing: Packing


@dataclass(frozen=True)
class Batch:
    """Packed sentence pairs: source ids, the decoder's inputs and wanted outputs, each (rows,) in int32.

    Rows beyond the last sentence hold padding, and -1 in `target_out`.
    """

    source_ids: Tensor
    source: Packing
    target_in: Tensor
    target_out: Tensor
    target: Packing

    @property
    def target_tokens(self) -> int:
        """Wanted tokens, the end of each sentence included."""
        return int(self.target.offsets[-1])


class DynamicConvModel(nn.Module):
    """Encoder-decoder with tied embeddings.

    Args:
        arch: Sizes.
        dropout: Probability for the embeddings and each block's result.

    Attributes:
        dtype: In which the blocks compute; the residual stream, norms and sums stay float32.
    """

    positions: Tensor

    def __init__(self, arch: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout probability {dropout} is not in [0, 1)")
        self.arch, self.dropout, self.dtype = arch, dropout, torch.float32
        d = arch.d_model
        self.embedding = nn.Embedding(arch.vocab_size, d)
        nn.init.normal_(self.embedding.weight, std=d**-0.5)
        encoder = [Layer(arch, taps, first=not i) for i, taps in enumerate(arch.encoder_kernels)]
        decoder = [DecoderLayer(arch, taps, first=not i) for i, taps in enumerate(arch.decoder_kernels)]
        self.encoder, self.decoder = Stack(encoder, d), Stack(decoder, d)
        offset = arch.position_offset
        positions = sinusoids(arch.max_positions + offset, d)[offset:].contiguous()
        self.register_buffer("positions", positions, persistent=False)

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        """Ids (rows,) at their places (rows,) to (rows, d)."""
        dropout = self.dropout if self.training else 0.0
        table = self.embedding.weight
        if self.arch.begin == "end":
            ids = torch.where(ids == BEGIN, END, ids)
        return ops.embed(table, ids.to(torch.int32), self.positions, places, dropout)

    def _stream(self, x: Tensor) -> Stream:
        return Stream(x, self.dropout if self.training else 0.0, self.dtype, self.arch.norm == "post")

    def _encode(self, x: Tensor, packing: Packing) -> Tensor:
        """Embedded source (rows, d) to encoder states (rows, d)."""
        stream = self._stream(x)
        for layer in self.encoder:
            stream.add(layer.convolution(stream.norm(layer.conv_norm), packing))
            stream.add(layer.feed_forward(stream.norm(layer.ffn_norm)))
        return stream.norm(self.encoder.norm)

    def _decode(self, x: Tensor, target: Packing, source: Source) -> Tensor:
        """Embedded target (rows, d) to hidden states (rows, d)."""
        stream = self._stream(x)
        for layer, keys_values in zip(self.decoder, source.keys_values, strict=True):
            stream.add(layer.convolution(stream.norm(layer.conv_norm), target))
            stream.add(layer.attention(stream.norm(layer.attn_norm), keys_values, target, source.packing))
            stream.add(layer.feed_forward(stream.norm(layer.ffn_norm)))
        return stream.norm(self.decoder.norm)

    def _source(self, encoded: Tensor, packing: Packing) -> Source:
        return Source([layer.keys_values(encoded) for layer in self.decoder], packing)

    def forward(self, batch: Batch, smoothing: float, weight: float) -> tuple[Tensor, Tensor]:
        """Loss of a batch.

        Args:
            batch: Sentence pairs.
            smoothing: Of the labels.
            weight: Factor of the loss, such as 1 / tokens of all batches of a step.

        Returns:
            `weight` times the smoothed loss summed over the target tokens; and, without gradient, the sums of
            smoothed loss and negative log-likelihood, (2,) in float64.
        """
        with self._dense_weights(max(batch.source.rows, batch.target.rows)):
            places = np.concatenate((batch.source.places, batch.target.places))
            ids = torch.cat((batch.source_ids, batch.target_in))
            x = self._embed(ids, torch.from_numpy(places).to(ids.device))
            from_source, from_target = x.split_with_sizes((batch.source.rows, batch.target.rows))
            source = self._source(self._encode(from_source, batch.source), batch.source)
            hidden = self._decode(from_target, batch.target, source)
        loss, totals = ops.SmoothedCrossEntropy.apply(
            hidden, self.embedding.weight, batch.target_out, smoothing, weight
        )
        return loss, totals

    def _dense_weights(self, rows: int) -> AbstractContextManager[None]:
        """K-matrices multiplied out once for all rows, unless the butterfly kernel multiplies by factors."""
        return materialized(self, self.dtype, rows) if self.multiplies_out() else nullcontext()

    def multiplies_out(self) -> bool:
        """Whether K-matrices become dense weights: where the hardware has matrix units for them."""
        return self.dtype == torch.bfloat16 or self.embedding.weight.device.type != "cpu"

    def encode(self, source: Tensor) -> Tensor:
        """Source ids (batch, time), padded with 3, to encoder states (batch, time, d); zero at padding."""
        ids, packing = pack_ids(source)
        states = packing.pad(self._encode(self._embed(ids, self._places(packing)), packing))
        return functional.pad(states, (0, 0, 0, source.shape[1] - states.shape[1]))

    def prepare(self, source: Tensor) -> Source:
        """Encode source ids (batch, time), padded with 3; compute every decoder layer's keys and values."""
        ids, packing = pack_ids(source)
        return self._source(self._encode(self._embed(ids, self._places(packing)), packing), packing)

    def decode(self, source: Source, target: Tensor) -> Tensor:
        """Hidden states (batch, time, d) of the decoder for inputs (batch, time), all of one length."""
        packing = Packing.of_lengths([target.shape[1]] * target.shape[0], target.device)
        x = self._embed(target.flatten(), self._places(packing))
        return self._decode(x, packing, source).view(*target.shape, -1)

    def _places(self, packing: Packing) -> Tensor:
        return torch.from_numpy(packing.places).to(packing.device)

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
        target = Packing.of_lengths([1] * len(ids), ids.device)
        stream = self._stream(self._embed(ids, torch.full_like(ids, position, dtype=torch.int32)))
        for index, layer in enumerate(self.decoder):
            y, histories[index] = layer.convolution_step(stream.norm(layer.conv_norm), histories[index])
            stream.add(y)
            keys_values = source.keys_values[index]
            stream.add(layer.attention(stream.norm(layer.attn_norm), keys_values, target, source.packing))
            stream.add(layer.feed_forward(stream.norm(layer.ffn_norm)))
        return stream.norm(self.decoder.norm)

    def start_histories(self, batch: int) -> list[Tensor]:
        """Convolution inputs before the first step: zeros, (batch, taps - 1, d) per decoder layer."""
        weight = self.embedding.weight
        sizes = [(batch, taps - 1, self.arch.d_model) for taps in self.arch.decoder_kernels]
        return [weight.new_zeros(size, dtype=self.dtype) for size in sizes]

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
        with materialized(self, self.dtype):
            return self._greedy_loop(padded, limits)

    def _greedy_loop(self, padded: Tensor, limits: list[int]) -> list[list[int]]:
        prepared = self.prepare(padded)
        histories = self.start_histories(len(limits))
        ids = torch.full((len(limits),), BEGIN, device=padded.device)
        outputs: list[list[int]] = [[] for _ in limits]
        running = set(range(len(limits)))
        table = self.embedding.weight.to(self.dtype).t()
        for position in range(max(limits)):
            scores = self.step(prepared, ids, position, histories) @ table
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
