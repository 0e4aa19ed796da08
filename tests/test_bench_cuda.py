"""`kserve bench cuda` without a device: its ways on the CPU's twin, its table, what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import exit_code

from kserve.bench.check import DisagreementError
from kserve.bench.cuda import TIMED, CudaPlan, check, run_cuda, table, thresholds
from kserve.bench.machine import Results, write_results
from kserve.bench.page import write_page
from kserve.kmatrix import KLinear, cuda


def wall_clock(call: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one call, where there is no device to ask."""

    def once() -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return once


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    return run_cuda(CudaPlan([8, 64], [1, 5], repeats=2), torch.device("cpu"), wall_clock)


def test_every_way_is_checked_and_timed(records: list[dict[str, Any]]) -> None:
    assert [(one["n"], one["rows"], one["mode"]) for one in records] == [
        (size, rows, mode) for size in (8, 64) for rows in (1, 5) for mode in ("forward", "training")
    ]
    for one in records:
        missing = {name for name in TIMED if one[f"{name}_us"] is None}
        assert missing == (set() if one["mode"] == "forward" else {"kernel_bf16_twiddles"})
        assert one["kernel_us_min"] <= one["kernel_us"] <= one["kernel_us_max"]
        assert one["share_of_copy"] == one["copy_us"] / one["kernel_us"]
    assert len(table(records).splitlines()) == 1 + len(records) + 2


def test_page_has_the_records(records: list[dict[str, Any]], tmp_path: Path) -> None:
    write_results(tmp_path / "cuda.json", Results("cuda", records))
    write_page([tmp_path / "cuda.json"], tmp_path / "benchmarks.md")
    text = (tmp_path / "benchmarks.md").read_text()
    assert "## The CUDA butterfly" in text
    assert text.count("| training |") == 4


def test_thresholds_are_where_the_kernel_last_wins() -> None:
    def record(
        n: int, rows: int, kernel: float, built: float | None, mode: str = "training"
    ) -> dict[str, Any]:
        return {"n": n, "rows": rows, "kernel_us": kernel, "built_us": built, "mode": mode}

    measured = [
        record(256, 16, 9.0, 5.0),
        record(256, 64, 9.0, 5.0),
        record(1024, 16, 5.0, 9.0),
        record(1024, 64, 8.0, 9.0),
        record(1024, 256, 20.0, 9.0),
        record(1024, 1024, 5.0, 9.0, mode="forward"),
        record(16384, 64, 70.0, None),
    ]
    assert thresholds(measured) == {256: 0, 1024: 64, 16384: 64}


def test_wrong_product_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, right = KLinear(8, 8, bias=False), cuda.multiply
    monkeypatch.setattr("kserve.bench.cuda.cuda.multiply", lambda *given: 1.001 * right(*given))
    with pytest.raises(DisagreementError, match=r"at n 8, 3 rows, .* is off by"):
        check(layer, torch.randn(3, 8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_device_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert exit_code("bench", "cuda", "--json", str(tmp_path / "cuda.json")) == 1
    assert "needs a CUDA device, and torch sees none" in capsys.readouterr().err
    assert not (tmp_path / "cuda.json").exists()


@pytest.mark.parametrize("option", ["--n", "--rows"])
def test_wrong_lists_are_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("bench", "cuda", option, "64,x") == 2
    assert "expected whole numbers" in capsys.readouterr().err


def test_records_are_json(records: list[dict[str, Any]]) -> None:
    assert json.loads(json.dumps(records)) == records
