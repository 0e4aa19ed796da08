"""The training loop: `kserve train RECIPE.yaml`, by itself or under torchrun.

A run folder holds `tokenizer.model`, `corpora.npz` (the encoded text), `checkpoint.pt` (the whole state,
replaced atomically), `weights/STEP.pt` (the last few, for averaging), `log.csv`, `curves.png`, `run.json`
(what ran where), `start.pt` (the weights of the start, if they have a share in the end) and, at the end,
`final.pt` (averaged weights).
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import nn
from tqdm import tqdm

from kserve.kmatrix import KLinear, cuda
from kserve.train.batches import Schedule, StepPlan, make_batch
from kserve.train.checkpoint import Progress, average_weights, read_checkpoint, save_atomically
from kserve.train.data import (
    Folders,
    load_corpora,
    read_pairs,
    read_training_pairs,
    train_tokenizer,
    write_atomically,
)
from kserve.train.journal import Journal, Moment, Window
from kserve.train.memory import keep_freed_memory
from kserve.train.model import DynamicConvModel
from kserve.train.optimizer import clip_gradients, learning_rate, make_optimizer, set_learning_rate
from kserve.train.processes import Processes, joined
from kserve.train.recipe import Recipe, RecipeError, load_recipe
from kserve.train.start import Start, read_start
from kserve.train.validation import Scores, validate


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32: CUDA, and processors with AMX."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if amx or device.type == "cuda" else torch.float32


class Run:
    """One training run in a folder.

    Args:
        recipe: What to train.
        folders: Where the text files are.
        folder: Run folder; an earlier run's checkpoint in it is resumed.
        processes: Which of the processes that train together this one is.
        start: `final.pt` of another run or a model folder, whose weights and tokenizer are the start where
            the folder holds no checkpoint yet.
    """

    def __init__(
        self,
        recipe: Recipe,
        folders: Folders,
        folder: Path,
        processes: Processes,
        start: Path | None = None,
    ) -> None:
        self.recipe, self.folders, self.folder, self.processes = recipe, folders, folder, processes
        self.training, self.device = recipe.training, processes.device
        if self.training.batches_per_step % processes.count:
            raise RecipeError(
                f"training.batches_per_step={self.training.batches_per_step} cannot be shared out to "
                f"{processes.count} processes; make it a multiple of them"
            )
        self.dtype = choose_precision(self.training.precision, self.device)
        own = folder / "checkpoint.pt"
        given = None if own.exists() or start is None else read_start(start)
        self._prepare_text(given)
        torch.manual_seed(self.training.seed)
        self.arch = recipe.model.architecture(self.tokenizer.get_piece_size())
        self.model = DynamicConvModel(self.arch, self.training.dropout).to(self.device)
        self.model.dtype = self.dtype
        self.optimizer = make_optimizer(self.model, self.training)
        self.progress = Progress()
        self.stopped = False
        if given is not None:
            self._begin(given)
        elif own.exists():
            self._resume(own)
        elif self.training.start_share:
            raise RecipeError(
                "training.start_share mixes the weights of --weights in; name them, or leave it out"
            )
        self.wrapped = processes.wrap(self.model)

    def _prepare_text(self, start: Start | None) -> None:
        """Tokenizer and encoded text, made by the first process and read by the others."""
        recipe, codes = self.recipe, (self.recipe.languages.source, self.recipe.languages.target)
        if not self.processes.first:
            self.processes.wait()
        (self.folder / "weights").mkdir(parents=True, exist_ok=True)
        path = self.folder / "tokenizer.model"
        if start is not None and self.processes.first:
            write_atomically(path, start.tokenizer)
        elif not path.exists():
            train_tokenizer(recipe, read_training_pairs(recipe, self.folders)[0], path)
        self.tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.corpora, self.counts = load_corpora(recipe, self.folders, self.folder)
        pairs = [pair for pair in read_pairs(self.folders, recipe.data.valid, codes) if all(pair)]
        if not pairs:
            raise RecipeError(f"the validation text {recipe.data.valid} has no sentence pair")
        self.valid = pairs[: self.training.valid_sentences]
        if self.processes.first:
            self.processes.wait()

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "architecture": self.arch.to_dict(),
            "recipe": self.recipe.model_dump(),
            "progress": vars(self.progress).copy(),
        }

    def _begin(self, start: Start) -> None:
        self._load(start.weights, start.architecture, start.path)
        self.progress = start.progress
        if self.training.start_share and self.processes.first:
            save_atomically(self._state(), self.folder / "start.pt")

    def _resume(self, path: Path) -> None:
        """Go on where a checkpoint of this run stands."""
        state = read_checkpoint(path)
        self._load(state["model"], state["architecture"], path)
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])

    def _load(self, weights: Mapping[str, torch.Tensor], architecture: Mapping[str, Any], path: Path) -> None:
        wanted = self.arch.to_dict()
        different = [
            f"{key} {architecture.get(key)} instead of {wanted.get(key)}"
            for key in {**wanted, **architecture}
            if architecture.get(key) != wanted.get(key)
        ]
        if different:
            raise RecipeError(
                f"{path} holds a model of other sizes than the recipe ({'; '.join(different)}); use another "
                "run folder, or make the recipe's sizes those of the weights that it is to start from"
            )
        self.model.load_state_dict(weights)

    def save(self) -> None:
        """Write the whole state, and the weights for averaging; keep the last `average_last` of those."""
        save_atomically(
            self._state() | {"optimizer": self.optimizer.state_dict()}, self.folder / "checkpoint.pt"
        )
        save_atomically(self._state(), self.folder / "weights" / f"{self.progress.step:07d}.pt")
        for old in self._saved_weights()[: -self.training.average_last]:
            old.unlink()

    def _saved_weights(self) -> list[Path]:
        return sorted((self.folder / "weights").glob("*.pt"))

    def facts(self) -> dict[str, Any]:
        """What runs where, for run.json and the first line of output."""
        layers = [module for module in self.model.modules() if isinstance(module, KLinear)]
        path = "dense weights built once a batch" if self.model.multiplies_out() else "the butterfly kernel"
        if self.device.type == "cuda":
            path = cuda.explain(self.device)
        return {
            "recipe": self.recipe.name,
            "text": str(self.counts),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "device": self.device.type,
            "precision": str(self.dtype).removeprefix("torch."),
            "k_matrices": f"{len(layers)} layers by {path}" if layers else "none",
            "processes": self.processes.count,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }

    def describe(self) -> str:
        """What is about to run, in a line."""
        facts = self.facts()
        return f"{facts.pop('recipe')}: " + ", ".join(f"{key} {value}" for key, value in facts.items())

    def _backward(self, plan: StepPlan) -> torch.Tensor:
        """Gradients of a step's mean loss; this process's share of (loss, nll), summed."""
        count = self.processes.count
        totals = torch.zeros(2, dtype=torch.float64)
        own = range(self.processes.rank, len(plan.batches), count)
        for index in own:
            batch = make_batch(self.corpora, plan.batches[index], self.device)
            # The same dropout however the batches are shared out, and after resuming.
            torch.manual_seed(hash((self.training.seed, self.progress.step, index)) & 0x7FFFFFFF)
            waits = count > 1 and index != own[-1]
            with self._gradients_stay() if waits else nullcontext():
                # Gradients are averaged over the processes, which are to add up.
                loss, sums = self.wrapped(batch, self.training.label_smoothing, count / plan.target_tokens)
                loss.backward()
            totals += sums.cpu()
        return totals

    def _gradients_stay(self) -> Any:
        """Within it gradients are not sent to the other processes yet."""
        assert isinstance(self.wrapped, nn.parallel.DistributedDataParallel)
        return self.wrapped.no_sync()

    def update(self, plan: StepPlan) -> tuple[torch.Tensor, float]:
        """One step of the optimiser; returns this process's summed loss and nll, and the gradient's norm.

        Raises:
            RecipeError: the gradient is no number, in whichever process; the last checkpoint stands.
        """
        set_learning_rate(self.optimizer, learning_rate(self.progress.step + 1, self.training))
        totals = self._backward(plan)
        norm = clip_gradients(self.model.parameters(), self.training.clip_norm)
        if not math.isfinite(norm):
            epoch, batch = self.progress.position
            raise RecipeError(
                f"the gradient's norm is {norm} and the loss {totals[0] / plan.target_tokens:.4g} at step "
                f"{self.progress.step + 1} (epoch {epoch}, batch {batch}); the last good checkpoint is "
                "kept: lower training.learning_rate or training.clip_norm and run again"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return totals, norm

    def validate(self) -> Scores:
        """Scores on the first validation sentences."""
        scores = validate(self.model, self.tokenizer, self.valid)
        self.model.train()
        return scores

    def _finish_window(self, window: Window, sums: torch.Tensor, bar: tqdm[Any]) -> None:
        """Save, validate where it is due, and log."""
        step, training = self.progress.step, self.training
        window.loss, window.nll = self.processes.sum(sums).tolist()
        if not self.processes.first:
            return
        self.save()
        due = step % training.validate_every == 0 or step == training.steps
        scores = self.validate() if due else None
        if scores is not None:
            nll = window.nll / window.tokens
            bar.write(
                f"step {step}: nll {nll:.3f}, validation nll {scores.nll:.3f}, BLEU {scores.bleu:.2f}",
                file=sys.stderr,
            )
        rate = learning_rate(step, training)
        moment = Moment(step, self.progress.position[0], rate, self.progress.seconds)
        self.journal.write(moment, window, scores)
        if scores is not None or self.stopped:
            self.journal.draw()

    def run(self) -> Path:
        """Train to the last step; SIGTERM and SIGINT save and stop.

        Returns:
            The final weights, or the checkpoint of a run that was stopped before.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self.journal = Journal(self.folder, self.recipe.name)
        training, progress = self.training, self.progress
        self.model.train()
        quiet = not self.processes.first
        bar: tqdm[Any]
        with tqdm(
            total=training.steps, initial=progress.step, unit="step", smoothing=0.05, disable=quiet
        ) as bar:
            if self.processes.first:
                bar.write(self.describe(), file=sys.stderr)
                (self.folder / "run.json").write_text(json.dumps(self.facts(), indent=2) + "\n")
            self._train(bar)
        if progress.step < training.steps:
            return self.folder / "checkpoint.pt"
        return self.finish()

    def _train(self, bar: tqdm[Any]) -> None:
        """Steps until the last or until stopped, in windows of `save_every`."""
        training, progress = self.training, self.progress
        schedule = Schedule(
            self.corpora, training.batch_tokens, training.batches_per_step, training.seed
        ).steps_from(progress.position)
        window, sums = Window(), torch.zeros(2, dtype=torch.float64)
        while progress.step < training.steps and not self.stopped:
            started = time.monotonic()
            plan = next(schedule)
            totals, norm = self.update(plan)
            sums += totals
            progress.step, progress.position = progress.step + 1, plan.after
            progress.seconds += time.monotonic() - started
            progress.target_tokens += plan.target_tokens
            window.tokens, window.steps = window.tokens + plan.target_tokens, window.steps + 1
            window.gradient_norm += norm
            self.stopped = self.processes.any(self.stopped)
            bar.update()
            if progress.step % 20 == 0:
                loss = float(sums[0]) * self.processes.count / window.tokens
                bar.set_postfix(loss=f"{loss:.3f}", tokens_s=f"{window.tokens_per_second():.0f}")
            if progress.step % training.save_every == 0 or progress.step == training.steps or self.stopped:
                self._finish_window(window, sums, bar)
                window, sums = Window(), torch.zeros(2, dtype=torch.float64)

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def finish(self) -> Path:
        """Write `final.pt`: the average of the last saved weights, and of those of the start their share."""
        self.processes.wait()
        if self.processes.first:
            state = self._state()
            state["model"] = average_weights(self._saved_weights())
            if share := self.training.start_share:
                start = read_checkpoint(self.folder / "start.pt")["model"]
                state["model"] = {
                    name: (1 - share) * value + share * start[name] for name, value in state["model"].items()
                }
            save_atomically(state, self.folder / "final.pt")
        return self.folder / "final.pt"


def train(
    recipe_path: Path, data: Sequence[Path], folder: Path | None = None, start: Path | None = None
) -> Path:
    """Train the recipe on the text under `data`; resumes if the run folder holds a checkpoint.

    Args:
        recipe_path: The YAML file.
        data: Folders of the text files that it names; the first that has a file is taken.
        folder: Run folder; `runs/NAME` when absent.
        start: `final.pt` of another run, or a model folder, of the same sizes, whose weights are the start.

    Returns:
        The file of the averaged weights.

    Raises:
        RecipeError: the recipe or the data cannot be used, a file cannot be written, or the loss is no
        number.
    """
    recipe = load_recipe(recipe_path)
    keep_freed_memory()
    with joined() as processes:
        return Run(recipe, Folders(data), folder or Path("runs") / recipe.name, processes, start).run()
