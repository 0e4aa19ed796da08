"""The blocks of the model and the residual stream between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from kserve.train import ops
from kserve.train.packing import Packing
from kserve.train.spec import Architecture


class Layer(nn.Module):
    """Convolution block and feed-forward block; an encoder layer as it stands.

    A block takes the normed stream (rows, d) and returns what is added to the stream (`Stream`).
    """

    def __init__(self, arch: Architecture, taps: int, causal: bool = False, first: bool = False) -> None:
        super().__init__()
        d = arch.d_model
        self.glu = arch.glu
        self.window = ops.Window(arch.heads, taps, taps - 1 if causal else (taps - 1) // 2)
        # Norms after the blocks are named by the block that follows; before a stack's first there is none.
        self.conv_norm = None if first and arch.norm == "post" else nn.LayerNorm(d)
        self.conv_in = arch.make("conv_in", taps)
        self.kernel = arch.make("kernel", taps)
        self.conv_out = arch.make("conv_out", taps)
        self.ffn_norm = nn.LayerNorm(d)
        self.ffn_in = arch.make("ffn_in", taps)
        self.ffn_out = arch.make("ffn_out", taps)

    def _convolution_inputs(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """The convolution's input (rows, d) and the scores of its taps (rows, heads * taps)."""
        u = self.conv_in(h)
        if self.glu:
            u = ops.glu(u)
        return u, self.kernel(u)

    def convolution(self, h: Tensor, packing: Packing) -> Tensor:
        """The block over whole sentences."""
        return self.conv_out(ops.convolve(*self._convolution_inputs(h), packing, self.window))

    def convolution_step(self, h: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """One causal step of the block.

        Args:
            h: (batch, d), one token of each sentence.
            history: (batch, taps - 1, d), the earlier inputs of the convolution, zero before the start.

        Returns:
            The block's result (batch, d) and the next history.
        """
        u, scores = self._convolution_inputs(h)
        window = torch.cat((history, u.unsqueeze(1)), dim=1)
        by_head = window.view(*window.shape[:2], self.window.heads, -1)
        shares = scores.view(len(h), self.window.heads, -1).softmax(-1)
        y = torch.einsum("bthc,bht->bhc", by_head, shares).reshape(h.shape)
        return self.conv_out(y), window[:, 1:]

    def feed_forward(self, h: Tensor) -> Tensor:
        """The feed-forward block."""
        return self.ffn_out(ops.relu_(self.ffn_in(h)))


class DecoderLayer(Layer):
    """Causal convolution block, attention over the encoder's output, feed-forward block."""

    def __init__(self, arch: Architecture, taps: int, first: bool = False) -> None:
        super().__init__(arch, taps, causal=True, first=first)
        self.attn_norm = nn.LayerNorm(arch.d_model)
        self.query = arch.make("query", taps)
        self.key = arch.make("key", taps)
        self.value = arch.make("value", taps)
        self.attn_out = arch.make("attn_out", taps)

    def keys_values(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's output, each (source rows, d)."""
        return self.key(encoded), self.value(encoded)

    def attention(
        self, h: Tensor, keys_values: tuple[Tensor, Tensor], target: Packing, source: Packing
    ) -> Tensor:
        """The attention block."""
        return self.attn_out(ops.attend(self.query(h), keys_values, target, source, self.window.heads))


AnyLayer = TypeVar("AnyLayer", bound=Layer)


class Stack(nn.Module, Generic[AnyLayer]):
    """Layers and the norm after them."""

    def __init__(self, layers: list[AnyLayer], d_model: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(d_model)

    def __iter__(self) -> Iterator[AnyLayer]:
        return cast(Iterator[AnyLayer], iter(self.layers))


class Stream:
    """The residual stream (rows, d) in float32; what a block adds waits to be added with the next norm.

    With norms after the blocks (`post`) the stream itself becomes what is normed.
    """

    def __init__(self, x: Tensor, dropout: float, dtype: torch.dtype, post: bool = False) -> None:
        self._x, self._dropout, self._dtype, self._post = x, dropout, dtype, post
        self._added: Tensor | None = None

    def add(self, y: Tensor) -> None:
        """Add dropout(y)."""
        self._added = y

    def norm(self, norm: nn.LayerNorm | None) -> Tensor:
        """The stream, layer-normed, in the type of the blocks; as it stands before a block without a norm."""
        if norm is None:
            return self._x.to(self._dtype)
        if self._post:
            added = None if self._added is None else self._added.to(self._x.dtype)
            _, self._x = ops.add_norm(self._x, added, self._dropout, norm, self._x.dtype)
            h = self._x.to(self._dtype)
        else:
            self._x, h = ops.add_norm(self._x, self._added, self._dropout, norm, self._dtype)
        self._added = None
        return h
