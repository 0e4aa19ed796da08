"""Pictures of benchmark records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from kserve.bench.machine import Results
from kserve.errors import InvalidParameter

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Record = Mapping[str, Any]
ENGINE_COLOURS = {
    "kserve": "tab:red",
    "kserve-dense-int8": "tab:orange",
    "kserve-dense-fp16": "tab:olive",
    "kserve-dense-fp32": "tab:brown",
    "torch-k": "tab:purple",
    "torch-dense": "tab:gray",
    "ctranslate2-int8": "tab:blue",
    "ctranslate2-float32": "tab:cyan",
}
# What makes two records of one engine the same case but for what a plot runs over.
_CASE = ("batch", "beam", "threads", "target_tokens", "shortlist")


@dataclass(frozen=True)
class Axis:
    """What a plot of decoding records runs over, from left to right."""

    key: str
    label: str
    logarithmic: bool = True


DECODE_AXES = {
    "length": Axis("target_tokens", "target tokens", logarithmic=False),
    "batch": Axis("batch", "sentences in a call"),
    "threads": Axis("threads", "threads", logarithmic=False),
    "beam": Axis("beam", "beam", logarithmic=False),
}


def draw(results: Results, out: Path) -> None:
    """The picture of one run: `bench kernel` over n, `bench decode` over what varies, or one bar each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if results.benchmark == "kernel":
        draw_kernel(results.records, out)
        return
    if results.benchmark != "decode" or not results.records:
        raise InvalidParameter(f"there is no picture of the benchmark {results.benchmark!r}")
    for axis in DECODE_AXES.values():
        if varied(results.records, axis.key):
            draw_decode(results.records, axis, out)
            return
    draw_bars(results.records, out)


def varied(records: Sequence[Record], key: str) -> bool:
    """Whether there is more than one value of this key."""
    return len({record[key] for record in records}) > 1


def largest_family(records: Sequence[Record], key: str) -> list[Record]:
    """Those records that differ in nothing but engine and `key`: of all such families, the largest."""
    families: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        others = tuple(record[name] for name in _CASE if name != key)
        families.setdefault(others, []).append(record)
    return max(families.values(), key=len)


def draw_decode(records: Sequence[Record], axis: Axis, out: Path) -> None:
    """Tokens a second of each engine over one axis, the rest alike."""
    family = largest_family(records, axis.key)

    def plot(axes: Axes) -> None:
        for engine, colour in ENGINE_COLOURS.items():
            line = sorted((one for one in family if one["engine"] == engine), key=lambda one: one[axis.key])
            if line:
                xs, ys = [one[axis.key] for one in line], [one["tokens_per_second"] for one in line]
                axes.plot(xs, ys, "o-", label=engine, color=colour)
        axes.set(xlabel=axis.label, ylabel="target tokens a second", yscale="log")
        if axis.logarithmic:
            axes.set_xscale("log", base=2)
        axes.set_title(case_text(family[0], axis.key), fontsize=9)
        axes.legend(fontsize=7)

    _save(plot, out)


def draw_bars(records: Sequence[Record], out: Path) -> None:
    """One bar an engine."""

    def plot(axes: Axes) -> None:
        names = [one["engine"] for one in records]
        colours = [ENGINE_COLOURS[name] for name in names]
        axes.barh(names[::-1], [one["tokens_per_second"] for one in records][::-1], color=colours[::-1])
        axes.set(xlabel="target tokens a second", xscale="log")
        axes.set_title(case_text(records[0], ""), fontsize=9)

    _save(plot, out)


def draw_memory(records: Sequence[Record], out: Path) -> None:
    """Tokens a second against the memory of the process, a point a record."""

    def plot(axes: Axes) -> None:
        for one in records:
            place = (one["peak_mb"], one["tokens_per_second"])
            axes.scatter(*place, color=ENGINE_COLOURS[one["engine"]])
            axes.annotate(f"{one['engine']}, {one['model']}", place, fontsize=6)
        axes.set(xlabel="peak memory of the process, MB", ylabel="target tokens a second", yscale="log")
        axes.set_title(case_text(records[0], ""), fontsize=9)

    _save(plot, out)


def draw_steps(builds: Mapping[str, Sequence[Record]], out: Path) -> None:
    """The engine's tokens a second over builds in order, a line for each case."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for place, records in enumerate(builds.values()):
        for one in records:
            if one["engine"] == "kserve":
                lines.setdefault(case_text(one, "target_tokens"), []).append(
                    (place, one["tokens_per_second"])
                )

    def plot(axes: Axes) -> None:
        for case, points in lines.items():
            axes.plot(*zip(*points, strict=True), "o-", label=case)
        axes.set(ylabel="target tokens a second", yscale="log")
        axes.set_xticks(range(len(builds)), list(builds), rotation=25, ha="right", fontsize=7)
        axes.legend(fontsize=7, loc="lower left")

    _save(plot, out)


def draw_kernel(records: Sequence[Record], out: Path) -> None:
    """Time of one product over n: one row, the first instruction set, each cache level a panel."""
    isa, rows = records[0]["isa"], min(record["rows"] for record in records)
    some = [one for one in records if (one["isa"], one["rows"]) == (isa, rows)]
    levels = list(dict.fromkeys(one["weights_in"] for one in some))
    lines = {
        "kmatrix_us": ("K-matrix", "tab:red"),
        "dense_fp32_us": ("dense fp32, torch", "tab:gray"),
        "dense_fp32_own_us": ("dense fp32, own", "tab:brown"),
        "dense_int8_us": ("dense int8, own", "tab:orange"),
        "floor_us": ("floor of the K-matrix", "black"),
    }
    figure, panels = pyplot.subplots(1, len(levels), figsize=(4 * len(levels), 4), sharey=True, squeeze=False)
    for axes, level in zip(panels[0], levels, strict=True):
        line = sorted((one for one in some if one["weights_in"] == level), key=lambda one: int(one["n"]))
        for key, (label, colour) in lines.items():
            style = ":" if key == "floor_us" else "o-"
            axes.plot(
                [one["n"] for one in line], [one[key] for one in line], style, label=label, color=colour
            )
        axes.set(xlabel="n", yscale="log", title=f"weights in {level}")
        axes.set_xscale("log", base=2)
    panels[0][0].set_ylabel(f"µs a product ({isa}, rows {rows}, one thread)")
    panels[0][0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)


def case_text(record: Record, without: str) -> str:
    """The case in words, but for what the plot runs over."""
    words = {
        "batch": f"batch {record['batch']}",
        "beam": "greedy" if record["beam"] == 1 else f"beam {record['beam']}",
        "threads": f"threads {record['threads']}",
        "target_tokens": f"{record['target_tokens']:.0f} target tokens",
        "shortlist": "with a shortlist" if record.get("shortlist") else "",  # older builds had none
    }
    return ", ".join(text for key, text in words.items() if text and key != without)


def _save(plot: Callable[[Axes], None], out: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    plot(axes)
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
