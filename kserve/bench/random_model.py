"""Models of random weights in the sizes of a paper, packed by the real export: speed needs no training."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch

from kserve.architecture import SITES, parse_architecture
from kserve.bundle import write_bundle
from kserve.errors import InvalidParameter
from kserve.tokenizer import PADDING
from kserve.train.export import bundle_tensors
from kserve.train.model import DynamicConvModel
from kserve.train.shortlist import Shortlist
from kserve.train.spec import Architecture, LinearSpec


@dataclass(frozen=True)
class RandomModel:
    """Where the bundle lies, and the checkpoint that it was exported from."""

    bundle: Path
    checkpoint: Path


SIZES: dict[str, dict[str, Any]] = {
    # IWSLT14 de-en of Wu et al. 2019, with the kernels that grow from 3 to 31.
    "iwslt": {
        "vocab_size": 10_000,
        "d_model": 512,
        "d_ffn": 1024,
        "heads": 4,
        "encoder_kernels": (3, 7, 15, 31, 31, 31, 31),
        "decoder_kernels": (3, 7, 15, 31, 31, 31),
    },
    # The same form, small enough for a test of the benchmark itself.
    "tiny": {
        "vocab_size": 300,
        "d_model": 64,
        "d_ffn": 128,
        "heads": 4,
        "encoder_kernels": (3, 7),
        "decoder_kernels": (3, 7),
    },
}


GENERATION = {
    "beam_size": 5,
    "length_penalty": 1.0,
    "max_length_ratio": 2.0,
    "max_length_extra": 10,
    "max_source_tokens": 256,
    "shortlist": False,
}


# As long as the lists that `kserve export --shortlist` learns.
LISTED, ALWAYS = 32, 128


def make_random(name: str, folder: Path, seed: int = 1) -> RandomModel:
    """Write a checkpoint of random rotations and its bundle to `folder`; every layer K, width 1.

    The bundle has a shortlist of random tokens, which is used only when asked for.
    """
    if name not in SIZES:
        raise InvalidParameter(f"--random is {name!r}; expected one of: {', '.join(SIZES)}")
    arch = Architecture(linear=dict.fromkeys(SITES, LinearSpec("kmatrix")), **SIZES[name])
    torch.manual_seed(seed)
    model = DynamicConvModel(arch)
    with torch.no_grad():
        # Untrained, the tied embedding of the last token would outvote the layers, and every translation be
        # one word repeated: an answer that nearly any engine gets right.
        model.embedding.weight.mul_(0.1)
    checkpoint, bundle = folder / "final.pt", folder / f"random-{name}"
    torch.save({"model": model.state_dict(), "architecture": arch.to_dict(), "recipe": {}}, checkpoint)
    lists = _shortlist(arch.vocab_size, seed)
    size = {"tokens": len(lists.tokens), "always": len(lists.always)}
    config = {
        "name": bundle.name,
        "languages": {"source": "de", "target": "en"},
        "architecture": {**arch.to_dict(), "shortlist": size},
        "generation": GENERATION,
        "provenance": {"training": f"none: random rotations, seed {seed}"},
        "quality": {},
    }
    tensors = bundle_tensors(model.state_dict(), parse_architecture(arch.to_dict()))
    card = f"# {bundle.name}\n\nRandom weights, for benchmarks: it translates nothing.\n"
    write_bundle(bundle, config, {**tensors, **lists.tensors()}, _tokenizer(arch.vocab_size), card)
    return RandomModel(bundle, checkpoint)


def _shortlist(vocab_size: int, seed: int) -> Shortlist:
    """Every token with itself and random others, and some for any sentence."""
    random = np.random.default_rng(seed)
    real = np.arange(PADDING + 1, vocab_size)
    lists = [
        np.union1d(random.choice(real, min(LISTED, len(real)) - 1, replace=False), token) for token in real
    ]
    first = np.zeros(vocab_size + 1, np.int32)
    first[PADDING + 2 :] = np.cumsum([len(one) for one in lists])
    always = np.sort(random.choice(real, min(ALWAYS, len(real) // 2), replace=False))
    return Shortlist(first, np.concatenate(lists).astype(np.int32), always.astype(np.int32))


def _tokenizer(size: int) -> bytes:
    """A SentencePiece model of exactly `size` pieces: made-up words, and the four ids of every model."""
    words = [f"w{number}" for number in range(size - 4)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        model_type="word",
        vocab_size=size,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        minloglevel=2,
    )
    return model.getvalue()
