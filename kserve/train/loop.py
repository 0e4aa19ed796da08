"""The training loop: `kserve train RECIPE.yaml`.

A run folder holds `tokenizer.model`, `checkpoint.pt` (the whole state, replaced atomically),
`weights/STEP.pt` (the last few, for averaging), `log.csv`, `curves.png` and, at the end, `final.pt`
(averaged weights).
"""

from __future__ import annotations

import csv
import math
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sacrebleu
import sentencepiece
import torch
from tqdm import tqdm

from kserve.kmatrix import materialized
from kserve.train.checkpoint import average_weights, save_atomically
from kserve.train.data import (
    Batch,
    batches_from,
    load_corpora,
    read_pairs,
    read_training_pairs,
    train_tokenizer,
)
from kserve.train.model import DynamicConvModel
from kserve.train.plot import plot_curves
from kserve.train.recipe import Recipe, RecipeError, Training, load_recipe

LOG_FIELDS = ("step", "epoch", "loss", "nll", "learning_rate", "tokens_per_second", "seconds", "valid_bleu")


def learning_rate(step: int, training: Training) -> float:
    """Linear warm-up, inverse square root, then a linear cool-down to zero at the last step (step from 1)."""
    warm = training.warmup_steps
    rate = training.learning_rate * min(step / warm, math.sqrt(warm / step))
    cooldown = training.cooldown * training.steps
    left = training.steps - step
    return rate * min(1.0, left / cooldown) if cooldown >= 1 else rate


def choose_precision(wanted: str, device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it faster than float32: CUDA, and processors with AMX."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    amx = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if amx or device.type == "cuda" else torch.float32


@dataclass
class Progress:
    """Where a run stands; part of the checkpoint."""

    step: int = 0
    position: tuple[int, int] = (0, 0)
    seconds: float = 0.0
    target_tokens: int = 0


@dataclass
class Window:
    """Sums since the last line of the log."""

    loss: float = 0.0
    nll: float = 0.0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)


class Run:
    """One training run in a folder.

    Args:
        recipe: What to train.
        data: Folder of the text files.
        folder: Run folder; an earlier run's checkpoint in it is resumed.
    """

    def __init__(self, recipe: Recipe, data: Path, folder: Path) -> None:
        self.recipe, self.data, self.folder = recipe, data, folder
        self.training = recipe.training
        (folder / "weights").mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = choose_precision(self.training.precision, self.device)
        self.tokenizer = self._load_tokenizer()
        self.corpora, self.dropped = load_corpora(
            recipe, data, folder / "tokenizer.model", folder / "corpora.npz"
        )
        torch.manual_seed(self.training.seed)
        self.arch = recipe.model.architecture(self.tokenizer.get_piece_size())
        self.model = DynamicConvModel(self.arch, self.training.dropout).to(self.device)
        self.optimizer = self._make_optimizer()
        self.progress = Progress()
        self.stopped = False
        self._resume()

    def _make_optimizer(self) -> torch.optim.Adam:
        """Adam in two groups, since twiddles may learn at another rate: the others, then the twiddles."""
        twiddles = [p for name, p in self.model.named_parameters() if name.endswith("twiddle")]
        others = [p for name, p in self.model.named_parameters() if not name.endswith("twiddle")]
        groups = [{"params": others, "scale": 1.0}]
        if twiddles:
            groups.append({"params": twiddles, "scale": self.training.twiddle_rate})
        return torch.optim.Adam(groups, betas=(0.9, 0.98), eps=1e-9, fused=True)

    def _load_tokenizer(self) -> sentencepiece.SentencePieceProcessor:
        path = self.folder / "tokenizer.model"
        if not path.exists():
            train_tokenizer(self.recipe, read_training_pairs(self.recipe, self.data), path)
        return sentencepiece.SentencePieceProcessor(model_file=str(path))

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "architecture": self.arch.to_dict(),
            "recipe": self.recipe.model_dump(),
            "progress": vars(self.progress).copy(),
        }

    def _resume(self) -> None:
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        if state["architecture"] != self.arch.to_dict():
            raise RecipeError(f"{path} holds a model of other sizes than the recipe; use another run folder")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_random"])
        self.progress = Progress(**state["progress"])

    def save(self) -> None:
        """Write the whole state, and the weights for averaging; keep the last `average_last` of those."""
        extra: dict[str, Any] = {"optimizer": self.optimizer.state_dict(), "random": torch.get_rng_state()}
        if self.device.type == "cuda":
            extra["cuda_random"] = torch.cuda.get_rng_state_all()
        save_atomically(self._state() | extra, self.folder / "checkpoint.pt")
        save_atomically(self._state(), self.folder / "weights" / f"{self.progress.step:07d}.pt")
        for old in self._saved_weights()[: -self.training.average_last]:
            old.unlink()

    def _saved_weights(self) -> list[Path]:
        return sorted((self.folder / "weights").glob("*.pt"))

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, self.dtype) if self.dtype != torch.float32 else nullcontext()

    def describe(self) -> str:
        """What is about to run, in a line."""
        linear = "dense weights built once a step" if self._materializes() else "the butterfly kernel"
        return (
            f"{self.recipe.name}: {len(self.corpora)} pairs ({self.dropped} longer ones left out), "
            f"{sum(p.numel() for p in self.model.parameters())} parameters, {self.device.type}, "
            f"{str(self.dtype).removeprefix('torch.')}, K-matrices by {linear}"
        )

    def _materializes(self) -> bool:
        return self.dtype == torch.bfloat16 or self.device.type == "cuda"

    def _dense_weights(self) -> AbstractContextManager[None]:
        """Dense weights, built once a step, where matrix products are fast; else the butterfly kernel."""
        return materialized(self.model) if self._materializes() else nullcontext()

    def update(self, batch: Batch) -> tuple[float, float]:
        """One step of the optimiser; returns the summed loss and negative log-likelihood."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate(self.progress.step + 1, self.training)
        with self._autocast(), self._dense_weights():
            totals = self.model.loss(
                batch.source, batch.target_in, batch.target_out, self.training.label_smoothing
            )
        if not torch.isfinite(totals).all():
            raise RecipeError(
                f"the loss is {totals.tolist()} at step {self.progress.step + 1}, "
                f"batch {self.progress.position}; "
                f"the last good checkpoint is kept; lower training.learning_rate and run again"
            )
        (totals[0] / batch.target_tokens).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss, nll = totals.tolist()
        return loss, nll

    def validate(self) -> float:
        """Cased BLEU of greedy translations of the first validation sentences."""
        codes = self.recipe.languages
        pairs = read_pairs(self.data, self.recipe.data.valid, codes.source, codes.target)
        pairs = pairs[: self.training.valid_sentences]
        sources = self.tokenizer.encode([source for source, _ in pairs], add_eos=True)
        order = sorted(range(len(pairs)), key=lambda i: len(sources[i]))
        outputs = [""] * len(pairs)
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            for row, ids in zip(rows, self.model.greedy([sources[i] for i in rows]), strict=True):
                outputs[row] = self.tokenizer.decode(ids)
        self.model.train()
        return float(sacrebleu.corpus_bleu(outputs, [[target for _, target in pairs]]).score)

    def _log(self, window: Window, bleu: float | None) -> None:
        seconds = time.monotonic() - window.started
        values = (
            self.progress.step,
            self.progress.position[0],
            f"{window.loss / window.tokens:.4f}",
            f"{window.nll / window.tokens:.4f}",
            f"{learning_rate(self.progress.step, self.training):.6f}",
            f"{window.tokens / seconds:.0f}",
            f"{self.progress.seconds:.0f}",
            "" if bleu is None else f"{bleu:.2f}",
        )
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(LOG_FIELDS)
            writer.writerow(values)

    def _finish_window(self, window: Window, bar: tqdm[Any]) -> None:
        """Save, validate where it is due, and log."""
        step, training = self.progress.step, self.training
        self.save()
        last = step == training.steps or self.stopped
        bleu = self.validate() if step % training.validate_every == 0 or step == training.steps else None
        if bleu is not None:
            bar.write(
                f"step {step}: nll {window.nll / window.tokens:.3f}, valid BLEU {bleu:.2f}", file=sys.stderr
            )
        self._log(window, bleu)
        if last or bleu is not None:
            plot_curves(self.folder / "log.csv", self.folder / "curves.png", self.recipe.name)

    def run(self) -> Path:
        """Train to the last step; SIGTERM and SIGINT save and stop. Returns the final weights."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        training, progress = self.training, self.progress
        bar: tqdm[Any]
        batches = batches_from(
            self.corpora, training.batch_tokens, training.seed, progress.position, self.device
        )
        self.model.train()
        window = Window()
        with tqdm(total=training.steps, initial=progress.step, unit="step", smoothing=0.05) as bar:
            bar.write(self.describe(), file=sys.stderr)
            while progress.step < training.steps and not self.stopped:
                started = time.monotonic()
                after, batch = next(batches)
                loss, nll = self.update(batch)
                progress.step, progress.position = progress.step + 1, after
                progress.seconds += time.monotonic() - started
                progress.target_tokens += batch.target_tokens
                window.loss, window.nll = window.loss + loss, window.nll + nll
                window.tokens += batch.target_tokens
                bar.update()
                if progress.step % 20 == 0:
                    speed = window.tokens / (time.monotonic() - window.started)
                    bar.set_postfix(loss=f"{window.loss / window.tokens:.3f}", tokens_s=f"{speed:.0f}")
                if (
                    progress.step % training.save_every == 0
                    or progress.step == training.steps
                    or self.stopped
                ):
                    self._finish_window(window, bar)
                    window = Window()
        return self.finish()

    def _stop(self, *_: object) -> None:
        self.stopped = True

    def finish(self) -> Path:
        """Write `final.pt`: the average of the last saved weights."""
        state = self._state()
        state["model"] = average_weights(self._saved_weights())
        save_atomically(state, self.folder / "final.pt")
        return self.folder / "final.pt"


def train(recipe_path: Path, data: Path, folder: Path | None = None) -> Path:
    """Train the recipe on the text under `data`; resumes if the run folder holds a checkpoint.

    Args:
        recipe_path: The YAML file.
        data: Folder of the text files that it names.
        folder: Run folder; `runs/NAME` when absent.

    Returns:
        The file of the averaged weights.

    Raises:
        RecipeError: the recipe or the data cannot be used, or the loss is no number.
    """
    recipe = load_recipe(recipe_path)
    return Run(recipe, data, folder or Path("runs") / recipe.name).run()
