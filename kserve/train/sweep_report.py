"""What a sweep found, for people: a table and a picture. It needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.ticker import NullFormatter


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """The records for a person, as Markdown: mean BLEU and the spread between seeds."""
    tests = list(records[0]["bleu"])
    lines = [
        f"| layers | {' | '.join(f'BLEU {test}' for test in tests)} | numbers in linear layers | "
        "decoder multiply-adds a token | tokens/s |",
        "| --- |" + " --- |" * (len(tests) + 3),
    ]
    for record in records:
        cells = [
            f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"
            for values in record["bleu"].values()
        ]
        speed = f"{record['tokens_per_second']['median']:.0f}" if record["tokens_per_second"] else ""
        lines.append(
            f"| {record['point']} | {' | '.join(cells)} | {record['linear_numbers'] / 1e6:.2f} M | "
            f"{record['decoder_multiply_adds'] / 1e6:.2f} M | {speed} |"
        )
    return "\n".join(lines)


def draw_sweep(records: Sequence[Mapping[str, Any]], out: Path) -> None:
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
