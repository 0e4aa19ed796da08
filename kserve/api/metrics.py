"""Counters in Prometheus' form. No address, key or text is ever a label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from kserve.api.bundles import Bundles

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PHASES = ("queue", "tokenize", "decode", "total")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry for each app, so that several in one process do not mix."""

    def __init__(self, bundles: Bundles) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "kserve_requests", "Answered requests.", ["path", "status"], registry=registry
        )
        self.rejects = Counter(
            "kserve_rejects", "Refused requests, by reason.", ["reason"], registry=registry
        )
        phase = Histogram(
            "kserve_phase_seconds",
            "Time of a translation request: waiting, text handling, engine, all together.",
            ["phase"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.phases = {name: phase.labels(name) for name in PHASES}
        self.request_limit = Gauge(
            "kserve_request_limit", "Requests that are let in at once at the moment.", registry=registry
        )
        self.characters = Counter("kserve_characters", "Characters translated.", ["pair"], registry=registry)
        self.retries = Counter(
            "kserve_retried_sentences",
            "Sentences decoded again to keep what must survive.",
            registry=registry,
        )
        self.cache_hits = Counter("kserve_cache_hits", "Sentences found in the cache.", registry=registry)
        self.twin_bytes = Gauge(
            "kserve_twin_bytes", "Weights of the dense twin that /compare has made.", registry=registry
        )
        registry.register(_EngineCollector(bundles))
        ProcessCollector(registry=registry)

    def exposition(self) -> bytes:
        """All of them, as text."""
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """What the batchers count themselves, read when it is asked for."""

    _GAUGES: ClassVar = {
        "queued_sentences": "Sentences that wait for the engine.",
        "queued_tokens": "Tokens that wait for the engine.",
        "running_sentences": "Sentences in the engine.",
        "running_rows": "Hypotheses in the engine's last step.",
    }
    _COUNTERS: ClassVar = {
        "sentences": "Sentences decoded.",
        "source_tokens": "Source tokens read.",
        "target_tokens": "Target tokens made.",
        "steps": "Decoder steps.",
        "rows": "Hypotheses in all steps; rows by steps is the mean batch size.",
        "rejected": "Requests refused because the queue was full.",
        "cancelled": "Requests given up by their clients or out of time.",
    }

    def __init__(self, bundles: Bundles) -> None:
        self._bundles = bundles

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(
            "kserve_model_info", "Loaded models and their kernels.", labels=["model", "pair", "isa"]
        )
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, text in self._GAUGES.items():
            families[name] = GaugeMetricFamily(f"kserve_engine_{name}", text, labels=["pair"])
        for name, text in self._COUNTERS.items():
            families[name] = CounterMetricFamily(f"kserve_engine_{name}", text, labels=["pair"])
        for one in self._bundles:
            pair = "-".join(one.pair)
            info.add_metric([one.translator.bundle.name, pair, one.translator.isa], 1)
            stats = one.batcher.stats()
            for name, family in families.items():
                family.add_metric([pair], getattr(stats, name))
        yield info
        yield from families.values()
