"""Parallel text: reading, SentencePiece training, batches of like length."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from numpy.typing import NDArray
from torch import Tensor

from kserve.tokenizer import BEGIN, END, PADDING, UNKNOWN
from kserve.train.recipe import Recipe, RecipeError


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


def read_pairs(root: Path, prefix: str, source: str, target: str) -> list[tuple[str, str]]:
    """Sentence pairs of PREFIX.source and PREFIX.target under `root`, those with an empty side left out."""
    left, right = (read_lines(root / f"{prefix}.{suffix}") for suffix in (source, target))
    if len(left) != len(right):
        raise RecipeError(
            f"{prefix}.{source} has {len(left)} lines and {prefix}.{target} {len(right)}: from line "
            f"{min(len(left), len(right)) + 1} on one side is missing; the two must be aligned line by line"
        )
    return [pair for pair in zip(left, right, strict=True) if all(pair)]


def read_training_pairs(recipe: Recipe, root: Path) -> list[tuple[str, str]]:
    """All training pairs of the recipe, each corpus repeated as it says."""
    codes = recipe.languages
    pairs: list[tuple[str, str]] = []
    for corpus in recipe.data.train:
        pairs += read_pairs(root, corpus.prefix, codes.source, codes.target) * corpus.repeat
    return pairs


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside `path`, then rename: whoever is killed meanwhile leaves the old file or none."""
    draft = path.with_suffix(".tmp")
    draft.write_bytes(content)
    draft.replace(path)


def train_tokenizer(recipe: Recipe, pairs: list[tuple[str, str]], out: Path) -> None:
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
            f"SentencePiece refused vocabulary.size={recipe.vocabulary.size}: {error}"
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
    pairs: list[tuple[str, str]], tokenizer: sentencepiece.SentencePieceProcessor, max_tokens: int
) -> tuple[Corpora, int]:
    """Encode, adding the end id; returns the pairs of at most max_tokens a side, and how many were longer."""
    sources = tokenizer.encode([source for source, _ in pairs], add_eos=True)
    targets = tokenizer.encode([target for _, target in pairs], add_eos=True)
    kept = [i for i in range(len(pairs)) if max(len(sources[i]), len(targets[i])) <= max_tokens]
    source_flat = _flatten([sources[i] for i in kept])
    target_flat = _flatten([targets[i] for i in kept])
    return Corpora(*source_flat, *target_flat), len(pairs) - len(kept)


def load_corpora(recipe: Recipe, root: Path, tokenizer_path: Path, cache: Path) -> tuple[Corpora, int]:
    """The encoded training text, from `cache` if it was made with this tokenizer and these settings."""
    digest = hashlib.sha256(tokenizer_path.read_bytes() + recipe.data.model_dump_json().encode()).hexdigest()
    names = ("source_ids", "source_offsets", "target_ids", "target_offsets")
    if cache.exists():
        with np.load(cache) as arrays:
            if str(arrays["digest"]) == digest:
                return Corpora(*(arrays[name] for name in names)), int(arrays["dropped"])
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_path))
    pairs = read_training_pairs(recipe, root)
    corpora, dropped = encode_pairs(pairs, tokenizer, recipe.data.max_tokens_per_sentence)
    if not len(corpora):
        raise RecipeError(
            "no training pair is left: all are empty or longer than data.max_tokens_per_sentence"
        )
    arrays = {name: getattr(corpora, name) for name in names}
    packed = io.BytesIO()
    np.savez(packed, digest=np.array(digest), dropped=np.array(dropped), **arrays)
    write_atomically(cache, packed.getvalue())
    return corpora, dropped


def plan_batches(corpora: Corpora, batch_tokens: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Cut one epoch into batches of like length, in random order; a function of (seed, epoch) alone.

    Padded tokens of a batch, on the longer side, are at most batch_tokens (a longer sentence is alone).
    """
    random = np.random.default_rng((seed, epoch))
    source = np.diff(corpora.source_offsets)
    target = np.diff(corpora.target_offsets)
    order = np.lexsort((random.random(len(corpora)), target, source))
    batches, start, widest = [], 0, 0
    longest = np.maximum(source, target)[order]
    for index in range(len(order)):
        widest = max(widest, int(longest[index]))
        if index > start and widest * (index - start + 1) > batch_tokens:
            batches.append(order[start:index])
            start, widest = index, int(longest[index])
    batches.append(order[start:])
    random.shuffle(batches)
    return batches


@dataclass(frozen=True)
class Batch:
    """Padded ids: source (batch, time); decoder input and wanted output (batch, target time)."""

    source: Tensor
    target_in: Tensor
    target_out: Tensor
    target_tokens: int


def _pad(ids: NDArray[np.int32], offsets: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    lengths = offsets[rows + 1] - offsets[rows]
    columns = np.arange(int(lengths.max()))
    real = columns < lengths[:, None]
    padded = np.full(real.shape, PADDING, np.int64)
    padded[real] = ids[(offsets[rows][:, None] + columns)[real]]
    return padded


def make_batch(corpora: Corpora, rows: NDArray[np.int64], device: torch.device) -> Batch:
    """Gather the sentence pairs `rows`."""
    source = torch.from_numpy(_pad(corpora.source_ids, corpora.source_offsets, rows))
    wanted = torch.from_numpy(_pad(corpora.target_ids, corpora.target_offsets, rows))
    given = torch.cat((torch.full((len(rows), 1), BEGIN), wanted[:, :-1]), dim=1)
    given[given == END] = PADDING
    tokens = int((wanted != PADDING).sum())
    return Batch(source.to(device), given.to(device), wanted.to(device), tokens)


def batches_from(
    corpora: Corpora, batch_tokens: int, seed: int, position: tuple[int, int], device: torch.device
) -> Iterator[tuple[tuple[int, int], Batch]]:
    """Endless batches from (epoch, index) on, each with the position of the one after it."""
    epoch, index = position
    while True:
        plan = plan_batches(corpora, batch_tokens, seed, epoch)
        for number in range(index, len(plan)):
            after = (epoch, number + 1) if number + 1 < len(plan) else (epoch + 1, 0)
            yield after, make_batch(corpora, plan[number], device)
        epoch, index = epoch + 1, 0
