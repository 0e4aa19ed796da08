"""`kserve bench decode`: greedy decoding, one sentence at a time, against the same weights in torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kserve import _engine
from kserve.bench.machine import percentile, spread
from kserve.errors import KserveError
from kserve.train.restore import restore
from kserve.translator import Translator

Decode = Callable[[list[int]], list[int]]


class DisagreementError(KserveError):
    """Two engines that hold the same weights gave different answers, so nothing is timed."""


@dataclass(frozen=True)
class Plan:
    """What to time: sentences, how often, on which instruction set (empty: the best)."""

    sentences: Sequence[str]
    repeats: int = 5
    isa: str = ""


def run_decode(bundle: Path | None, plan: Plan) -> list[dict[str, Any]]:
    """Time the engine and torch alternately on one thread; returns a record for each.

    Raises:
        DisagreementError: more than one sentence in two hundred differs between them.
    """
    started = time.perf_counter()
    translator = Translator(bundle, plan.isa or None, 1)
    load_ms = (time.perf_counter() - started) * 1e3
    torch.set_num_threads(1)
    model = restore(translator.bundle)
    sources = [translator.tokenizer.encode(text) for text in plan.sentences]
    options = translator.options(beam_size=1)

    def engine(source: list[int]) -> list[int]:
        return translator.engine.translate([source], options)[0][0].tokens

    def in_torch(source: list[int]) -> list[int]:
        ratio, extra = options.max_length_ratio, options.max_length_extra
        return model.greedy([source], ratio, extra)[0]

    check_agreement(engine, in_torch, sources)
    seconds = time_alternately((engine, in_torch), sources, plan.repeats)
    shared: dict[str, Any] = {
        "batch": 1,
        "beam": 1,
        "threads": 1,
        "shortlist": False,
        "sentences": len(sources),
    }
    shared["source_tokens"] = sum(map(len, sources)) / len(sources)
    tokens = [len(engine(source)) + 1 for source in sources]
    shared["target_tokens"] = sum(tokens) / len(tokens)
    names: tuple[dict[str, Any], ...] = (
        {"engine": "kserve", "isa": translator.isa, "load_ms": load_ms},
        {"engine": "torch-dense"},
    )
    return [
        {**name, **shared, **summarise(times, tokens)} for name, times in zip(names, seconds, strict=True)
    ]


def check_agreement(left: Decode, right: Decode, sources: Sequence[list[int]]) -> None:
    """Raise DisagreementError unless the two decode alike (near ties may differ once in 200 sentences)."""
    wrong = [i for i, source in enumerate(sources) if left(source) != right(source)]
    if len(wrong) * 200 > len(sources):
        raise DisagreementError(
            f"the engine and torch differ on {len(wrong)} of {len(sources)} sentences, first on number "
            f"{wrong[0] + 1}; no figure is printed for a wrong answer"
        )


def time_alternately(
    engines: Sequence[Decode], sources: Sequence[list[int]], repeats: int
) -> list[list[list[float]]]:
    """Seconds of each engine, repeat and sentence; the engines take turns within every repeat."""
    seconds: list[list[list[float]]] = [[] for _ in engines]
    for _ in range(repeats):
        for index, decode in enumerate(engines):
            row = []
            for source in sources:
                started = time.perf_counter()
                decode(source)
                row.append(time.perf_counter() - started)
            seconds[index].append(row)
    return seconds


def summarise(seconds: Sequence[Sequence[float]], tokens: Sequence[int]) -> dict[str, Any]:
    """Speed over the repeats, and latency of a sentence over all of them, in milliseconds."""
    speeds = spread([sum(tokens) / sum(row) for row in seconds])
    latencies = [value * 1e3 for row in seconds for value in row]
    return {
        "tokens_per_second": speeds["median"],
        "tokens_per_second_min": speeds["min"],
        "tokens_per_second_max": speeds["max"],
        "sentences_per_second": len(tokens) / spread([sum(row) for row in seconds])["median"],
        "p50_ms": percentile(latencies, 0.5),
        "p95_ms": percentile(latencies, 0.95),
        "p99_ms": percentile(latencies, 0.99),
    }


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records for a person, with each engine's speed as a share of the first one's."""
    lines = [f"{'engine':<14}{'tokens/s':>10}{'(min … max)':>18}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}"]
    for record in records:
        low, high = record["tokens_per_second_min"], record["tokens_per_second_max"]
        ratio = records[0]["tokens_per_second"] / record["tokens_per_second"]
        lines.append(
            f"{record['engine']:<14}{record['tokens_per_second']:>10.0f}{f'({low:.0f} … {high:.0f})':>18}"
            f"{record['p50_ms']:>9.2f}{record['p99_ms']:>9.2f}{ratio:>7.1f}x"
        )
    first = records[0]
    lines.append(
        f"one thread, batch 1, greedy, {first['isa']} (of {', '.join(_engine.available_isas())}), "
        f"{first['sentences']} sentences, {first['target_tokens']:.1f} target tokens on average"
    )
    return "\n".join(lines)
