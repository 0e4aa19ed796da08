"""A CTranslate2 Transformer of a bundle's sizes with random weights: the rival that people use today.

Its weights have nothing to do with the bundle's, so only its speed at a forced length can be compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import TransformerSpec
from numpy.typing import NDArray

from kserve.architecture import ModelShape
from kserve.bench.rivals import VOCABULARY_START
from kserve.bundle import Bundle

_MAPPING = "vmap.txt"  # the name under which CTranslate2 looks for it


def tokens(vocab_size: int) -> list[str]:
    """The vocabulary: a string for every id."""
    return VOCABULARY_START + [f"w{number}" for number in range(vocab_size - len(VOCABULARY_START))]


def write_transformer(model: Bundle, precision: str, out: Path) -> Path:
    """Write a pre-norm Transformer with the bundle's width, layers, heads and vocabulary.

    If the bundle has a shortlist, the same lists become CTranslate2's "vocabulary mapping".

    Args:
        model: Whose sizes and lists to take.
        precision: "int8" or "float32", as CTranslate2 names them.
        out: Folder of the model.
    """
    shape = model.shape
    layers = (len(shape.encoder_kernels), len(shape.decoder_kernels))
    spec = TransformerSpec.from_config(layers, shape.heads)
    random = _Random(shape, np.random.default_rng(1))
    for side in (spec.encoder, spec.decoder):
        random.fill_stack(side)
    vocabulary = tokens(shape.vocab_size)
    spec.register_source_vocabulary(vocabulary)
    spec.register_target_vocabulary(vocabulary)
    spec.validate()
    spec.optimize(quantization=None if precision == "float32" else precision)
    out.mkdir(parents=True, exist_ok=True)
    spec.save(str(out))
    if shape.shortlist is not None:
        (out / _MAPPING).write_text(_vocabulary_mapping(model), encoding="utf-8")
    return out


def _vocabulary_mapping(model: Bundle) -> str:
    """A line for each source token: the token, a tab, its list; the line of no token holds for any sentence.

    https://opennmt.net/CTranslate2/decoding.html#vocabulary-mapping
    """
    words = tokens(model.shape.vocab_size)
    first, listed, always = (model.tensors[f"shortlist.{name}"] for name in ("first", "tokens", "always"))
    lists = {"": always}
    lists |= {word: listed[first[i] : first[i + 1]] for i, word in enumerate(words)}
    return "".join(f"{word}\t{' '.join(words[i] for i in ids)}\n" for word, ids in lists.items() if len(ids))


class _Random:
    """Fills the parts of a specification with random numbers of the right shapes."""

    def __init__(self, shape: ModelShape, generator: np.random.Generator) -> None:
        self.shape, self.generator = shape, generator

    def fill_stack(self, stack: Any) -> None:
        """An encoder, or a decoder: its layers attend to the encoder and its output is projected."""
        d, vocab = self.shape.d_model, self.shape.vocab_size
        for embeddings in stack.embeddings if isinstance(stack.embeddings, list) else [stack.embeddings]:
            embeddings.weight = self._matrix(vocab, d)
        self._norm(stack.layer_norm)
        for layer in stack.layer:
            self._attention(layer.self_attention, (3 * d, d))
            if hasattr(layer, "attention"):
                self._attention(layer.attention, (d, 2 * d, d))
            self._norm(layer.ffn.layer_norm)
            self._linear(layer.ffn.linear_0, self.shape.d_ffn, d)
            self._linear(layer.ffn.linear_1, d, self.shape.d_ffn)
        if hasattr(stack, "projection"):
            self._linear(stack.projection, vocab, d)

    def _attention(self, attention: Any, outputs: tuple[int, ...]) -> None:
        self._norm(attention.layer_norm)
        for linear, size in zip(attention.linear, outputs, strict=True):
            self._linear(linear, size, self.shape.d_model)

    def _linear(self, linear: Any, outputs: int, inputs: int) -> None:
        linear.weight = self._matrix(outputs, inputs)
        linear.bias = np.zeros(outputs, np.float32)

    def _norm(self, norm: Any) -> None:
        norm.gamma = np.ones(self.shape.d_model, np.float32)
        norm.beta = np.zeros(self.shape.d_model, np.float32)

    def _matrix(self, outputs: int, inputs: int) -> NDArray[np.float32]:
        numbers = self.generator.standard_normal((outputs, inputs), dtype=np.float32)
        numbers /= np.float32(inputs**0.5)
        return numbers
