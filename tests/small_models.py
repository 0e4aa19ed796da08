"""Random models that the engine's tests share, each with its float64 twin and some sentences."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from reference_model import END, Guess, ReferenceModel, Site, Sizes, Tensors, random_tensors

from kserve import _engine


@dataclass(frozen=True)
class SmallModel:
    """One model; `seed` is chosen such that some of its translations end early and some run into the cap."""

    sizes: Sizes
    tensors: Tensors
    reference: ReferenceModel

    def engine(self, isa: str = "", threads: int = 1) -> _engine.Engine:
        return _engine.Engine(self.sizes.architecture(), self.tensors, isa=isa, threads=threads)

    def cap(self, source: list[int]) -> int:
        """Length cap with the default options."""
        return min(self.sizes.max_positions - 1, 2 * len(source) + 10)


_MIXED = Sizes(
    d_model=48,  # not a power of two: squares are padded and cut
    d_ffn=80,
    heads=3,
    glu=False,
    sites={
        "ffn_in": Site(width=2),
        "ffn_out": Site(expansion=2),
        "query": Site("dense"),
        "kernel": Site("dense"),
    },
)
_MODELS = {
    "dense": (Sizes(default_site=Site("dense")), 2),
    "kmatrix": (Sizes(d_model=64, d_ffn=128), 3),
    "mixed": (_MIXED, 2),
}
NAMES = tuple(_MODELS)


@cache
def small_model(name: str) -> SmallModel:
    """The model of this name, built once."""
    sizes, seed = _MODELS[name]
    tensors = random_tensors(sizes, seed)
    return SmallModel(sizes, tensors, ReferenceModel(sizes, tensors))


def sentences(count: int, vocab_size: int, seed: int = 5, longest: int = 14) -> list[list[int]]:
    """Random sources of 2 ... `longest` tokens, the end token included; every length occurs."""
    rng = np.random.default_rng(seed)
    lengths = [1 + index % (longest - 1) for index in range(count)]
    return [[*(int(i) for i in rng.integers(4, vocab_size, length)), END] for length in lengths]


@cache
def reference_translations(name: str, beam: int) -> list[list[Guess]]:
    """What the float64 twin makes of `sentences(13, ...)` with length penalty 0.8."""
    model = small_model(name)
    sources = sentences(13, model.sizes.vocab_size)
    return [model.reference.translate(source, beam, 0.8, model.cap(source)) for source in sources]
