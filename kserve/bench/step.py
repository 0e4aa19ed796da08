"""`kserve bench step`: seconds of a training step, K-matrices against their dense twin, on made-up sentences.

The twins take turns, step by step. Before the clock starts, each one's loss on a batch is compared with that
of the same weights in float64, by plain torch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kserve.bench.machine import spread
from kserve.errors import EngineFailure
from kserve.train.batches import Schedule, StepPlan, make_batch
from kserve.train.data import Corpora
from kserve.train.loop import choose_precision
from kserve.train.memory import keep_freed_memory
from kserve.train.model import DynamicConvModel
from kserve.train.optimizer import clip_gradients, make_optimizer
from kserve.train.recipe import Linear, Recipe

VARIANTS: Mapping[str, Linear] = {
    "kmatrix": Linear(),
    "kmatrix-width-2": Linear(width=2),
    "dense": Linear(kind="dense"),
}
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Steps before the clock starts: the matrix library makes its plans, and a device's allocator meets the sizes
# of batches, which it keeps memory for.
WARM_UP = 30 if DEVICE.type == "cuda" else 2
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the loss, relative
SENTENCES = 20000
# Lengths of everyday sentences and captions: 5 to 25 tokens, 13 in the mean.
SHORTEST, LONGEST = 5, 26


@dataclass(frozen=True)
class Plan:
    """What to time: a recipe's sizes, variants of its linear layers, numbers of threads, rounds."""

    recipe: Recipe
    variants: Sequence[str]
    threads: Sequence[int]
    repeats: int


class Trainee:
    """A model and its optimiser."""

    def __init__(self, recipe: Recipe, linear: Linear) -> None:
        torch.manual_seed(0)
        sizes = recipe.model.model_copy(update={"linear": linear, "sites": {}})
        self.training = recipe.training
        self.dtype = choose_precision(self.training.precision, DEVICE)
        model = DynamicConvModel(sizes.architecture(recipe.vocabulary.size), self.training.dropout)
        self.model = model.to(DEVICE)
        self.model.dtype = self.dtype
        self.optimizer = make_optimizer(self.model, self.training)

    def check(self, corpora: Corpora, plan: StepPlan) -> float:
        """Relative difference of the loss from float64; raises EngineFailure if it is too large."""
        batch = make_batch(corpora, plan.batches[0], DEVICE)
        exact = copy.deepcopy(self.model).double()
        exact.dtype = torch.float64
        with torch.no_grad():
            losses = [float(model.eval()(batch, 0.1, 1.0)[1][0]) for model in (self.model, exact)]
        self.model.train()
        difference = abs(losses[0] / losses[1] - 1)
        if not difference < TOLERANCE[self.dtype]:
            raise EngineFailure(f"a training step's loss is {losses[0]}, in float64 {losses[1]}")
        return difference

    def step(self, corpora: Corpora, plan: StepPlan) -> float:
        """Seconds of one step: batch, loss, gradients, update."""
        started = time.perf_counter()
        batch = make_batch(corpora, plan.batches[0], DEVICE)
        loss, _ = self.model(batch, self.training.label_smoothing, 1 / plan.target_tokens)
        loss.backward()
        clip_gradients(self.model.parameters(), self.training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def made_up_text(vocabulary: int) -> Corpora:
    """Random sentence pairs of everyday lengths."""
    random = np.random.default_rng(0)
    sides: list[Any] = []
    for _ in range(2):
        lengths = random.integers(SHORTEST, LONGEST, SENTENCES)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        sides += [random.integers(4, vocabulary, offsets[-1], dtype=np.int32), offsets]
    return Corpora(*sides)


def run_step(plan: Plan) -> list[dict[str, Any]]:
    """A record for each variant and number of threads."""
    keep_freed_memory()
    corpora = made_up_text(plan.recipe.vocabulary.size)
    records = []
    for threads in plan.threads:
        torch.set_num_threads(threads)
        trainees = {name: Trainee(plan.recipe, VARIANTS[name]) for name in plan.variants}
        records += _time(plan, corpora, trainees)
    return records


def _time(plan: Plan, corpora: Corpora, trainees: Mapping[str, Trainee]) -> list[dict[str, Any]]:
    schedule = Schedule(corpora, plan.recipe.training.batch_tokens, 1, 0).steps_from((0, 0))
    first = next(schedule)
    differences = {name: trainee.check(corpora, first) for name, trainee in trainees.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainees}
    names = list(trainees)
    for number in range(plan.repeats + WARM_UP):
        step = next(schedule)
        # Whoever comes first finds no memory of the batch's size: each of them in every other round.
        for name in reversed(names) if number % 2 else names:
            took = trainees[name].step(corpora, step)
            if number >= WARM_UP:
                seconds[name].append(took)
    return [
        {
            "recipe": plan.recipe.name,
            "variant": name,
            "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu",
            "precision": str(trainee.dtype).removeprefix("torch."),
            "multiplied_out": trainee.model.multiplies_out(),
            "threads": torch.get_num_threads(),
            "tokens": first.target_tokens,
            "parameters": sum(p.numel() for p in trainee.model.parameters()),
            "loss_difference": differences[name],
            "seconds": spread(seconds[name]),
            "tokens_per_second": first.target_tokens / spread(seconds[name])["median"],
        }
        for name, trainee in trainees.items()
    ]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records for a person."""
    lines = [
        f"{'variant':18} {'precision':10} {'threads':>7} {'ms a step':>20} {'tokens/s':>9} {'of dense':>8}"
    ]
    for record in records:
        dense = next(
            (r for r in records if r["variant"] == "dense" and r["threads"] == record["threads"]), None
        )
        took = record["seconds"]
        share = f"{took['median'] / dense['seconds']['median']:.2f}" if dense else ""
        times = f"{took['median'] * 1e3:.0f} ({took['min'] * 1e3:.0f}-{took['max'] * 1e3:.0f})"
        lines.append(
            f"{record['variant']:18} {record['precision']:10} {record['threads']:7} {times:>20} "
            f"{record['tokens_per_second']:9.0f} {share:>8}"
        )
    return "\n".join(lines)
