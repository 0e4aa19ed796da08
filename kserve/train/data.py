"""Parallel text: reading, SentencePiece training, encoding."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from kserve.tokenizer import BEGIN, END, PADDING, UNKNOWN
from kserve.train.recipe import Recipe, RecipeError

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Folders:
    """Where text files are looked for: the first folder that has a file is the one."""

    paths: Sequence[Path]

    def find(self, name: str) -> Path:
        """The file; one that is nowhere is reported when it is read."""
        found = (path / name for path in self.paths if (path / name).exists())
        return next(found, self.paths[0] / name)


@dataclass
class Counts:
    """What was left out of the training text, and why."""

    pairs: int = 0
    empty: int = 0
    duplicate: int = 0
    long: int = 0

    def __str__(self) -> str:
        reasons = {"with an empty side": self.empty, "seen before": self.duplicate, "too long": self.long}
        left_out = ", ".join(f"{count} {reason}" for reason, count in reasons.items() if count)
        return f"{self.pairs} pairs" + (f" (left out: {left_out})" if left_out else "")


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file; raises RecipeError naming the file and, for bad bytes, the line."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"cannot read {path}: {error.strerror}") from error
    lines = []
    for number, line in enumerate(raw.removesuffix(b"\n").split(b"\n"), 1):
        try:
            lines.append(line.decode("utf-8").strip())
        except UnicodeDecodeError as error:
            raise RecipeError(f"{path}, line {number}: not valid UTF-8 ({error.reason})") from error
    return lines


def read_pairs(folders: Folders, prefix: str, codes: tuple[str, str]) -> Pairs:
    """Sentence pairs of PREFIX.SOURCE and PREFIX.TARGET, line by line, empty ones included."""
    left, right = (read_lines(folders.find(f"{prefix}.{suffix}")) for suffix in codes)
    if len(left) != len(right):
        raise RecipeError(
            f"{prefix}.{codes[0]} has {len(left)} lines and {prefix}.{codes[1]} {len(right)}: from line "
            f"{min(len(left), len(right)) + 1} on one side is missing; the two must be aligned line by line"
        )
    return list(zip(left, right, strict=True))


def read_training_pairs(recipe: Recipe, folders: Folders) -> tuple[Pairs, Counts]:
    """All training pairs of the recipe, each corpus repeated as it says.

    Pairs with an empty side, and within a corpus those that came before, are left out.
    """
    codes, counts = (recipe.languages.source, recipe.languages.target), Counts()
    pairs: Pairs = []
    for corpus in recipe.data.train:
        lines = read_pairs(folders, corpus.prefix, codes)
        whole = [pair for pair in lines if all(pair)]
        own = list(dict.fromkeys(whole))
        counts.empty += len(lines) - len(whole)
        counts.duplicate += len(whole) - len(own)
        pairs += own * corpus.repeat
    counts.pairs = len(pairs)
    return pairs, counts


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: whoever is killed meanwhile leaves the old file or none."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(content)
    draft.replace(path)


def train_tokenizer(recipe: Recipe, pairs: Pairs, out: Path) -> None:
    """Train the shared SentencePiece model on both sides and write it to `out`."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text for pair in pairs for text in pair),
            model_writer=model,
            vocab_size=recipe.vocabulary.size,
            model_type=recipe.vocabulary.kind,
            character_coverage=0.9998,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            pad_id=PADDING,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise RecipeError(
            f"the text does not give a vocabulary of vocabulary.size={recipe.vocabulary.size}: {error}"
        ) from error
    write_atomically(out, model.getvalue())


@dataclass(frozen=True)
class Corpora:
    """Encoded sentence pairs in flat arrays: sentence i is ids[offsets[i]:offsets[i + 1]]."""

    source_ids: NDArray[np.int32]
    source_offsets: NDArray[np.int64]
    target_ids: NDArray[np.int32]
    target_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.source_offsets) - 1


def _flatten(sentences: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    offsets = np.zeros(len(sentences) + 1, np.int64)
    np.cumsum([len(ids) for ids in sentences], out=offsets[1:])
    return np.fromiter((i for ids in sentences for i in ids), np.int32, int(offsets[-1])), offsets


def encode_pairs(
    pairs: Pairs, tokenizer: sentencepiece.SentencePieceProcessor, max_tokens: int
) -> tuple[Corpora, int]:
    """Encode, adding the end id; returns the pairs of at most max_tokens a side, and how many were longer."""
    sources = tokenizer.encode([source for source, _ in pairs], add_eos=True)
    targets = tokenizer.encode([target for _, target in pairs], add_eos=True)
    kept = [i for i in range(len(pairs)) if max(len(sources[i]), len(targets[i])) <= max_tokens]
    source_flat = _flatten([sources[i] for i in kept])
    target_flat = _flatten([targets[i] for i in kept])
    return Corpora(*source_flat, *target_flat), len(pairs) - len(kept)


def _digest(recipe: Recipe, folders: Folders, tokenizer_path: Path) -> str:
    """Changes when the tokenizer, the recipe's data section or a text file's size does."""
    hashed = hashlib.sha256(tokenizer_path.read_bytes() + recipe.data.model_dump_json().encode())
    for corpus in recipe.data.train:
        for code in (recipe.languages.source, recipe.languages.target):
            path = folders.find(f"{corpus.prefix}.{code}")
            hashed.update(f"{path.stat().st_size if path.exists() else 'absent'} ".encode())
    return hashed.hexdigest()


def load_corpora(recipe: Recipe, folders: Folders, run_folder: Path) -> tuple[Corpora, Counts]:
    """The encoded training text, from the run folder's `corpora.npz` if that was made from the same."""
    tokenizer_path, cache = run_folder / "tokenizer.model", run_folder / "corpora.npz"
    digest = _digest(recipe, folders, tokenizer_path)
    names = ("source_ids", "source_offsets", "target_ids", "target_offsets")
    if cache.exists():
        with np.load(cache) as arrays:
            if str(arrays["digest"]) == digest:
                counts = Counts(*(int(count) for count in arrays["counts"]))
                return Corpora(*(arrays[name] for name in names)), counts
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_path))
    pairs, counts = read_training_pairs(recipe, folders)
    corpora, counts.long = encode_pairs(pairs, tokenizer, recipe.data.max_tokens_per_sentence)
    counts.pairs = len(corpora)
    if not len(corpora):
        raise RecipeError(
            "no training pair is left: all are empty or longer than data.max_tokens_per_sentence"
        )
    arrays = {name: getattr(corpora, name) for name in names}
    packed = io.BytesIO()
    np.savez(packed, digest=np.array(digest), counts=np.array(list(asdict(counts).values())), **arrays)
    write_atomically(cache, packed.getvalue())
    return corpora, counts
