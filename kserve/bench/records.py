"""From timings to the records of `kserve bench decode`, and to the table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kserve.bench.machine import percentile, spread
from kserve.bench.worker import Loaded
from kserve.bundle import MODEL, Bundle


@dataclass(frozen=True)
class Case:
    """One line of the table for every engine."""

    batch: int
    beam: int
    threads: int
    target_tokens: int  # 0: as long as the model likes
    shortlist: bool = False  # look only at tokens that may translate the source's


@dataclass
class Timings:
    """What one engine did in one case."""

    seconds: list[list[float]] = field(default_factory=list)  # by round and call
    tokens: int = 0  # in one round
    peak_bytes: int = 0


def record(engine: str, loaded: Loaded, case: Case, timings: Timings) -> dict[str, Any]:
    """One engine in one case; memory is that of its whole process, `base_mb` before a model was loaded."""
    return {
        "engine": engine,
        "isa": loaded.isa,
        "batch": case.batch,
        "beam": case.beam,
        "threads": case.threads,
        "shortlist": case.shortlist,
        "forced_length": case.target_tokens > 0,
        **summarise(timings, case.batch),
        "peak_mb": timings.peak_bytes / 1e6,
        "base_mb": loaded.base_bytes / 1e6,
        "load_ms": loaded.load_ms,
    }


def summarise(timings: Timings, batch: int) -> dict[str, Any]:
    """Speed over the rounds, and latency of a call over all of them, in milliseconds."""
    speeds = spread([timings.tokens / sum(row) for row in timings.seconds])
    latencies = [value * 1e3 for row in timings.seconds for value in row]
    sentences = batch * len(timings.seconds[0])
    return {
        "target_tokens": timings.tokens / sentences,
        "tokens_per_second": speeds["median"],
        "tokens_per_second_min": speeds["min"],
        "tokens_per_second_max": speeds["max"],
        "sentences_per_second": speeds["median"] * sentences / timings.tokens,
        "p50_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "p99_ms": percentile(latencies, 0.99),
        "rounds": len(timings.seconds),
        "calls": len(latencies),
    }


def model_facts(model: Bundle) -> dict[str, Any]:
    """Which model it was, and how good it is where the bundle says so."""
    bleu = [scores["bleu"] for scores in model.config.get("quality", {}).values() if "bleu" in scores]
    return {
        "model": model.name,
        "model_sha256": model.config["files"][MODEL]["sha256"],
        "bundle_mb": sum((model.path / name).stat().st_size for name in model.config["files"]) / 1e6,
        "bleu": max(bleu, default=None),
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for a person, case by case, with kserve's speed as a multiple of each engine's."""
    lines: list[str] = []
    base, shown = 1.0, ""
    for line in records:
        if line["engine"] == "kserve":
            base = line["tokens_per_second"]
            shown = line["isa"]
            lines += ["", _case_title(line), _HEADER]
        low, high = line["tokens_per_second_min"], line["tokens_per_second_max"]
        lines.append(
            f"{line['engine']:<20}{line['tokens_per_second']:>9.0f}{f'({low:.0f} … {high:.0f})':>18}"
            f"{line['p50_ms']:>9.2f}{line['p95_ms']:>9.2f}{line['p99_ms']:>9.2f}{line['peak_mb']:>8.0f}"
            f"{line['load_ms']:>9.0f}{base / line['tokens_per_second']:>8.2f}x"
        )
    first = records[0]
    lines += [
        "",
        f"{first['model']}, SHA-256 {first['model_sha256'][:12]}, kernels {shown}; median (least … most) of "
        f"{first['rounds']} rounds, {first['calls']} calls; every answer was checked",
    ]
    return "\n".join(lines[1:])


_HEADER = (
    f"{'engine':<20}{'tokens/s':>9}{'':>18}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'peak MB':>8}"
    f"{'load ms':>9}{'kserve':>9}"
)


def _case_title(line: dict[str, Any]) -> str:
    search = "greedy" if line["beam"] == 1 else f"beam {line['beam']}"
    threads = "one thread" if line["threads"] == 1 else f"{line['threads']} threads"
    forced = "forced to" if line["forced_length"] else "on average"
    listed = ", with a shortlist" if line["shortlist"] else ""
    return (
        f"batch {line['batch']}, {search}, {threads}, {line['source_tokens']:.1f} source tokens, "
        f"{forced} {line['target_tokens']:.1f} target tokens{listed}"
    )
