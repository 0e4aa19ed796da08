"""Pictures of training: the curves of a run, the points of a sweep."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import NullFormatter


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


def plot_sweep(records: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Draw a sweep's BLEU (last test, mean and range of the seeds) against what a decoder step costs."""
    test = list(records[0]["bleu"])[-1]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    for record in records:
        values = record["bleu"][test]
        mean = statistics.mean(values)
        spread = [[mean - min(values)], [max(values) - mean]]
        places = [(left, record["decoder_multiply_adds"])]
        if record["tokens_per_second"]:
            places.append((right, record["tokens_per_second"]["median"]))
        for axes, x in places:
            axes.errorbar(x, mean, yerr=spread, fmt="o", capsize=3)
            axes.annotate(record["point"], (x, mean), textcoords="offset points", xytext=(6, 4))
    left.set(
        xscale="log",
        xlabel="multiply-adds of the decoder a token, output layer left out",
        ylabel=f"BLEU, {test}",
    )
    left.xaxis.set_minor_formatter(NullFormatter())
    right.set(xlabel="target tokens/s, greedy, one sentence, one thread")
    for axes in (left, right):
        axes.margins(x=0.25)  # room for the names
    figure.tight_layout()
    figure.savefig(out, dpi=120)
    pyplot.close(figure)
