"""The benchmarks on a tiny model: they run, they check, they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_bundle

from kserve.bench.decode import DisagreementError, Plan, check_agreement, run_decode, summarise, table
from kserve.bench.machine import percentile, spread, write_results
from kserve.bench.serve import run_serve

SENTENCES = tiny_bundle.SENTENCES[:4]


def test_decode_times_the_engine_and_torch() -> None:
    records = run_decode(tiny_bundle.bundle_folder(), Plan(SENTENCES, repeats=2))
    assert [record["engine"] for record in records] == ["kserve", "torch-dense"]
    for record in records:
        assert record["p50_ms"] <= record["p95_ms"] <= record["p99_ms"]
        assert record["tokens_per_second_min"] <= record["tokens_per_second"]
        assert record["target_tokens"] > 1
    shown = table(records)
    assert "1.0x" in shown
    assert "one thread, batch 1, greedy" in shown


def test_a_wrong_answer_is_not_timed() -> None:
    with pytest.raises(DisagreementError, match="1 of 3 sentences, first on number 2"):
        check_agreement(lambda ids: ids, lambda ids: [0] if ids == [5] else ids, [[4], [5], [6]])


def test_speed_is_tokens_over_seconds() -> None:
    summary = summarise([[0.1, 0.3], [0.2, 0.2], [0.4, 0.4]], [4, 6])
    assert summary["tokens_per_second"] == pytest.approx(25)
    assert summary["tokens_per_second_min"] == pytest.approx(12.5)
    assert summary["p50_ms"] == pytest.approx(200)


def test_percentile_and_spread() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([5.0], 0.99) == 5.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_results_name_the_machine(tmp_path: Path) -> None:
    write_results(tmp_path / "out" / "result.json", [{"engine": "kserve"}])
    data = json.loads((tmp_path / "out" / "result.json").read_text())
    assert data["results"] == [{"engine": "kserve"}]
    assert data["machine"]["cpu"]
    assert data["machine"]["available_isas"][-1] == "scalar"


def test_serve_checks_every_answer() -> None:
    record = run_serve(tiny_bundle.bundle_folder(), SENTENCES, requests=6, starts=2)
    assert record["requests"] == 6
    assert 0 < record["ready_seconds_min"] <= record["ready_seconds_max"]
    assert record["resident_mb"] > 10
