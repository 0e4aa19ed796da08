"""A small real bundle for tests: a SentencePiece model trained on sentences of our own, random weights."""

from __future__ import annotations

import atexit
import functools
import hashlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from kserve.architecture import SITES, expected_tensors, parse_architecture
from kserve.bundle import MODEL, write_bundle
from kserve.dense_layout import byte_panels
from kserve.tensorfile import read_tensors, write_tensors

SENTENCES = (
    "Ein Hund rennt über die Wiese.",
    "Zwei Kinder spielen im Garten mit einem Ball.",
    "Die Frau liest ein Buch am Fenster.",
    "Morgen fahren wir mit dem Zug nach Hamburg.",
    "Wo ist der nächste Bahnhof?",
    "Das Wetter wird heute schön, sagt sie.",
    "Er trinkt jeden Abend eine Tasse Tee.",
    "A dog runs across the meadow.",
    "Two children play in the garden with a ball.",
    "The woman reads a book by the window.",
    "Tomorrow we take the train to Hamburg.",
    "Where is the nearest station?",
    "The weather will be fine today, she says.",
    "He drinks a cup of tea every evening.",
)

Tensors = dict[str, NDArray[Any]]


@functools.cache
def tokenizer_model() -> bytes:
    """A SentencePiece model of about a hundred pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_writer=model,
        vocab_size=120,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        minloglevel=2,
    )
    return model.getvalue()


def config(kind: str = "kmatrix", pair: tuple[str, str] = ("de", "en")) -> dict[str, Any]:
    """The configuration of a model of width 32 with two encoder layers and one decoder layer."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(tokenizer_model())
    linear = {"kind": "kmatrix", "width": 1, "expansion": 1} if kind == "kmatrix" else {"kind": "dense"}
    return {
        "name": "tiny-" + "-".join(pair),
        "languages": {"source": pair[0], "target": pair[1]},
        "architecture": {
            "type": "dynamicconv",
            "vocab_size": processor.GetPieceSize(),
            "d_model": 32,
            "d_ffn": 64,
            "heads": 4,
            "encoder_kernels": [3, 5],
            "decoder_kernels": [3],
            "glu": True,
            "max_positions": 64,
            "linear": dict.fromkeys(SITES, linear),
        },
        "generation": {
            "beam_size": 2,
            "length_penalty": 1.0,
            "max_length_ratio": 1.0,
            "max_length_extra": 3,
            "max_source_tokens": 40,
            "shortlist": False,
        },
        "provenance": {"training": "random weights"},
        "quality": {},
    }


def tensors(settings: dict[str, Any], seed: int = 7) -> Tensors:
    """Random weights of the right names, types and shapes, small enough that nothing overflows."""
    random = np.random.default_rng(seed)
    result: Tensors = {}
    for name, spec in expected_tensors(parse_architecture(settings["architecture"])).items():
        if spec.dtype == "I8":
            result[name] = random.integers(-127, 128, spec.shape).astype(np.int8)
        elif name == "embedding.scale":
            result[name] = random.uniform(0.001, 0.003, spec.shape).astype(np.float32)
        elif spec.dtype == "F16":
            result[name] = random.normal(0, 0.3, spec.shape).astype(np.float16)
        elif spec.dtype == "U32":
            result[name] = random_words(random, spec.shape)
        else:
            result[name] = (name.endswith(".gain") + random.normal(0, 0.1, spec.shape)).astype(np.float32)
    result["output.panels"] = byte_panels(result["embedding.table"])
    return result


def random_words(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Words whose numbers are about normal, of deviation 0.3."""
    bits = random.normal(0, 0.3, (2, *shape)).astype(np.float32).view(np.uint32)
    words: NDArray[np.uint32] = (bits[0] >> 16) | (bits[1] & np.uint32(0xFFFF0000))
    return words


def write(path: Path, kind: str = "kmatrix", pair: tuple[str, str] = ("de", "en"), seed: int = 7) -> Path:
    """A complete bundle at `path`."""
    settings = config(kind, pair)
    write_bundle(
        path, settings, tensors(settings, seed), tokenizer_model(), "# A model of random weights, for tests\n"
    )
    return path


@functools.cache
def bundle_folder() -> Path:
    """One shared bundle, not to be changed; `copy_to` gives one that may be."""
    folder = Path(tempfile.mkdtemp(prefix="kserve-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(folder / "tiny-de-en")


@functools.cache
def back_folder() -> Path:
    """The same for the other direction."""
    folder = Path(tempfile.mkdtemp(prefix="kserve-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write(folder / "tiny-en-de", pair=("en", "de"), seed=8)


def copy_to(path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(bundle_folder(), path)
    return path


def edit_config(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change config.json in place."""
    file = path / "config.json"
    settings = json.loads(file.read_text())
    change(settings)
    file.write_text(json.dumps(settings))


def edit_tensors(path: Path, change: Callable[[Tensors], None]) -> None:
    """Change the weights and seal them again: sizes and checksums are right, only the content is not."""
    content = {name: array.copy() for name, array in read_tensors(path / MODEL).items()}
    change(content)
    write_tensors(path / MODEL, content)
    data = (path / MODEL).read_bytes()
    seal = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_config(path, lambda settings: settings["files"].__setitem__(MODEL, seal))
