"""Training curves as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def plot_curves(log: Path, out: Path, title: str) -> None:
    """Draw loss and validation BLEU over the steps of a run's log.csv."""
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    figure, left = pyplot.subplots(figsize=(8, 4.5))
    left.plot([int(row["step"]) for row in rows], [float(row["nll"]) for row in rows], color="tab:blue")
    left.set(xlabel="step", ylabel="training negative log-likelihood a token (blue)", title=title)
    scored = [(int(row["step"]), float(row["valid_bleu"])) for row in rows if row["valid_bleu"]]
    right = left.twinx()
    right.plot([step for step, _ in scored], [bleu for _, bleu in scored], "o-", color="tab:orange")
    right.set_ylabel("validation BLEU, greedy (orange)")
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
