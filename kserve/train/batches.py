"""Batches of sentence pairs, packed; which sentences come when is a function of the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kserve.tokenizer import BEGIN, PADDING
from kserve.train.data import Corpora
from kserve.train.model import Batch
from kserve.train.packing import ROUND_ROWS, Packing

Rows = NDArray[np.int64]  # numbers of sentence pairs


# Sentences of so many batches are sorted by length before they are cut into batches: enough for little
# padding where a device pads, and few enough that what meets in a batch changes from epoch to epoch.
BUCKETED = 64


def plan_batches(corpora: Corpora, batch_tokens: int, seed: int, epoch: int) -> list[Rows]:
    """Cut one epoch into batches of sentences of like lengths; a function of (seed, epoch) alone.

    Either side of a batch has at most batch_tokens tokens (a longer sentence is alone). Both the sentences
    that are sorted together and the order of the batches are random.
    """
    random = np.random.default_rng((seed, epoch))
    order = random.permutation(len(corpora))
    longer = np.maximum(np.diff(corpora.source_offsets), np.diff(corpora.target_offsets))
    pool = np.cumsum(longer[order]) // (BUCKETED * batch_tokens)
    batches = _cut(corpora, order[np.lexsort((longer[order], pool))], batch_tokens)
    return [batches[index] for index in random.permutation(len(batches))]


def _cut(corpora: Corpora, order: Rows, batch_tokens: int) -> list[Rows]:
    """Batches of sentences that follow each other."""
    source, target = np.diff(corpora.source_offsets)[order], np.diff(corpora.target_offsets)[order]
    batches, start, tokens = [], 0, (0, 0)
    for index, lengths in enumerate(zip(source.tolist(), target.tolist(), strict=True)):
        grown = (tokens[0] + lengths[0], tokens[1] + lengths[1])
        if index > start and max(grown) > batch_tokens:
            batches.append(order[start:index])
            start, grown = index, lengths
        tokens = grown
    batches.append(order[start:])
    return batches


@dataclass(frozen=True)
class StepPlan:
    """The batches of one step, and where the next step begins: (epoch, number of the batch in it)."""

    batches: Sequence[Rows]
    after: tuple[int, int]
    target_tokens: int


@dataclass(frozen=True)
class Schedule:
    """Which sentences each step of a run sees."""

    corpora: Corpora
    batch_tokens: int
    batches_per_step: int
    seed: int

    def steps_from(self, position: tuple[int, int]) -> Iterator[StepPlan]:
        """Endless steps from a position on."""
        lengths = np.diff(self.corpora.target_offsets)
        epoch, index = position
        plan = plan_batches(self.corpora, self.batch_tokens, self.seed, epoch)
        while True:
            batches: list[Rows] = []
            while len(batches) < self.batches_per_step:
                batches.append(plan[index])
                index += 1
                if index == len(plan):
                    epoch, index = epoch + 1, 0
                    plan = plan_batches(self.corpora, self.batch_tokens, self.seed, epoch)
            tokens = sum(int(lengths[rows].sum()) for rows in batches)
            yield StepPlan(batches, (epoch, index), tokens)


def _gather(
    ids: NDArray[np.int32], offsets: NDArray[np.int64], rows: Rows, packing: Packing
) -> NDArray[np.int32]:
    """The sentences `rows`, one after the other; padding beyond them."""
    flat = np.full(packing.rows, PADDING, np.int32)
    used = int(packing.offsets[-1])
    flat[:used] = ids[np.repeat(offsets[rows], packing.lengths) + packing.places[:used]]
    return flat


def make_batch(corpora: Corpora, rows: Rows, device: torch.device) -> Batch:
    """Gather the sentence pairs `rows`."""
    sides = []
    for ids, offsets in (
        (corpora.source_ids, corpora.source_offsets),
        (corpora.target_ids, corpora.target_offsets),
    ):
        packing = Packing.of_lengths(offsets[rows + 1] - offsets[rows], device, ROUND_ROWS)
        sides.append((_gather(ids, offsets, rows, packing), packing))
    (source_ids, source), (wanted, target) = sides
    given = np.roll(wanted, 1)
    given[target.offsets[:-1]] = BEGIN
    given[target.offsets[-1] :] = PADDING
    wanted[target.offsets[-1] :] = -1
    source_tensor, given_tensor, wanted_tensor = (
        torch.from_numpy(array).to(device) for array in (source_ids, given, wanted)
    )
    return Batch(source_tensor, source, given_tensor, wanted_tensor, target)
