"""The picture of a training run."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot_curves(log: Path, out: Path, title: str) -> None:
    """Draw negative log-likelihoods and validation BLEU over the steps of a run's log.csv."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> tuple[list[int], list[float]]:
        held = [row for row in rows if row[name]]
        return [int(row["step"]) for row in held], [float(row[name]) for row in held]

    figure, left = pyplot.subplots(figsize=(8, 4.5))
    left.plot(*column("nll"), color="tab:blue", label="training")
    left.plot(*column("valid_nll"), "o-", color="tab:green", label="validation")
    left.set(xlabel="step", ylabel="negative log-likelihood a token", title=title)
    left.legend(loc="upper right")
    right = left.twinx()
    right.plot(*column("valid_bleu"), "s--", color="tab:orange")
    right.set_ylabel("validation BLEU, greedy (orange)")
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
