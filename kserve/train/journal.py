"""What a run writes down as it goes: log.csv, and the curves of it."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from pathlib import Path

from kserve.train.plot import plot_curves
from kserve.train.validation import Scores

FIELDS = (
    "step",
    "epoch",
    "loss",
    "nll",
    "gradient_norm",
    "learning_rate",
    "tokens_per_second",
    "seconds",
    "valid_bleu",
    "valid_nll",
)


@dataclass
class Window:
    """Sums since the last line of the log, over all processes: loss and nll in nats, tokens, steps."""

    loss: float = 0.0
    nll: float = 0.0
    gradient_norm: float = 0.0
    tokens: int = 0
    steps: int = 0
    started: float = field(default_factory=time.monotonic)

    def tokens_per_second(self) -> float:
        """Target tokens a second since the window began."""
        return self.tokens / (time.monotonic() - self.started)


@dataclass(frozen=True)
class Moment:
    """Where the run stands: steps, epoch, learning rate, seconds of training in all."""

    step: int
    epoch: int
    learning_rate: float
    seconds: float


class Journal:
    """log.csv and curves.png of a run folder."""

    def __init__(self, folder: Path, title: str) -> None:
        self._log, self._curves, self._title = folder / "log.csv", folder / "curves.png", title

    def write(self, moment: Moment, window: Window, scores: Scores | None) -> None:
        """Add a line."""
        values = (
            moment.step,
            moment.epoch,
            f"{window.loss / window.tokens:.4f}",
            f"{window.nll / window.tokens:.4f}",
            f"{window.gradient_norm / window.steps:.3f}",
            f"{moment.learning_rate:.6f}",
            f"{window.tokens_per_second():.0f}",
            f"{moment.seconds:.0f}",
            "" if scores is None else f"{scores.bleu:.2f}",
            "" if scores is None else f"{scores.nll:.4f}",
        )
        new = not self._log.exists()
        with self._log.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(FIELDS)
            writer.writerow(values)

    def draw(self) -> None:
        """Draw the curves anew."""
        plot_curves(self._log, self._curves, self._title)
