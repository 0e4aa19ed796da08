"""What happened to each request, summed up by step of the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kserve.bench.machine import percentile

REFUSALS = (429, 503)
PERCENTILES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Outcome:
    """One request. `seconds` count from when it should have been sent: a late sender hides no waiting."""

    step: int
    kind: str
    due: float  # on the run's clock
    seconds: float
    late: float  # seconds of them before it was sent, which are the sender's own
    status: int  # 0: no answer
    sentences: int
    fault: str | None
    phases: dict[str, float]  # milliseconds that the server names, by phase


def summary(outcomes: Sequence[Outcome], offered: float | None, seconds: float) -> dict[str, Any]:
    """Rates, refusals, faults and percentiles of the accepted; `offered` is None for users who wait."""
    accepted = [one for one in outcomes if one.status == 200]
    refused = [one for one in outcomes if one.status in REFUSALS]
    times = [one.seconds for one in accepted]
    return {
        "offered_per_second": offered,
        "seconds": round(seconds, 2),
        "requests": len(outcomes),
        "accepted": len(accepted),
        "refused": len(refused),
        "faults": dict(Counter(one.fault for one in outcomes if one.fault).most_common(5)),
        "accepted_per_second": round(len(accepted) / seconds, 2),
        "sentences_per_second": round(sum(one.sentences for one in accepted) / seconds, 2),
        **{f"p{100 * share:.0f}_ms": _ms(times, share) for share in PERCENTILES},
        "after_sending_p99_ms": _ms([one.seconds - one.late for one in accepted], 0.99),
        "sent_late_p99_ms": _ms([one.late for one in outcomes], 0.99),
        "refused_p99_ms": _ms([one.seconds for one in refused], 0.99),
        "server_p50_ms": {name: _phase(accepted, name) for name in ("queue", "tokenize", "decode")},
    }


def _ms(seconds: Sequence[float], share: float) -> float | None:
    return round(1e3 * percentile(seconds, share), 2) if seconds else None


def _phase(outcomes: Sequence[Outcome], name: str) -> float | None:
    values = [one.phases[name] for one in outcomes if name in one.phases]
    return round(percentile(values, 0.5), 2) if values else None
