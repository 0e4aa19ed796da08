"""Latency against offered load, of kserve and of CTranslate2 behind FastAPI, on the same cores in one run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

from kserve.bench.machine import spread
from loadtest import servers
from loadtest.offline import Offline
from loadtest.servers import Load, Target, run_locust

matplotlib.use("Agg")
from matplotlib import pyplot

SHARES = (0.1, 0.25, 0.5, 0.7, 0.85, 1.0, 1.2)  # of the load that saturates
_COLOURS = {"kserve": "tab:red", "ctranslate2-int8": "tab:blue"}


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    seconds: float  # of each step, and of each search for saturation
    rounds: int = 3
    users: int = 64  # of a saturating closed load of single sentences
    array_users: int = 8
    array: int = 10


def measure(offline: Offline, plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """A record for each engine: what saturates it, and its steps up to that and beyond."""
    anything = folder / "anything.json"
    anything.write_text(json.dumps(dict.fromkeys(offline.translations, "")), encoding="utf-8")
    rival = offline.rival(folder / "rival")
    with ExitStack() as stack:
        both = [
            (stack.enter_context(servers.kserve(offline.bundle)), offline.write(folder / "expected.json")),
            (stack.enter_context(servers.ctranslate2(rival)), anything),
        ]
        saturated = _saturate(both, plan, folder)
        return [
            {**found, "steps": _steps(target, expected, found, plan, folder)}
            for (target, expected), found in zip(both, saturated, strict=True)
        ]


def _saturate(both: Sequence[tuple[Target, Path]], plan: Plan, folder: Path) -> list[dict[str, Any]]:
    """Sentences a second of closed loads; the engines take turns."""
    loads = {
        "single": Load("ClosedUser", "single", plan.users, plan.seconds),
        "array": Load("ClosedUser", "array", plan.array_users, plan.seconds, array=plan.array),
    }
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(plan.rounds):
        for target, expected in both:
            for kind, load in loads.items():
                [step] = run_locust(target, load, expected, folder / "closed.json")
                found.setdefault((target.name, kind), []).append(step["sentences_per_second"])
    return [
        {
            "engine": target.name,
            **{f"saturated_{kind}": spread(found[target.name, kind]) for kind in loads},
            "resident_mb": round(target.resident_mb(), 1),
        }
        for target, _ in both
    ]


def _steps(
    target: Target, expected: Path, found: dict[str, Any], plan: Plan, folder: Path
) -> list[dict[str, Any]]:
    rates = [share * found["saturated_single"]["median"] for share in SHARES]
    load = Load("OpenUser", "single", rates=rates, step_seconds=plan.seconds)
    return run_locust(target, load, expected, folder / "open.json")


def draw(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Percentiles of the latency over the offered load."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for one in records:
        for share, style in (("p50_ms", "-"), ("p99_ms", "--")):
            steps = [step for step in one["steps"] if step[share] is not None]
            axes.plot(
                [step["offered_per_second"] for step in steps],
                [step[share] for step in steps],
                "o" + style,
                color=_COLOURS[one["engine"]],
                label=f"{one['engine']}, {share.partition('_')[0]}",
            )
    axes.set(
        xlabel="offered sentences a second", ylabel="ms from due to answered", yscale="log", xscale="log"
    )
    axes.set_title("single sentences at random times, server and clients on the same cores", fontsize=9)
    axes.legend(fontsize=7)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    pyplot.close(figure)
