"""The benchmarks on a tiny model: they run, they check, they refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_bundle
from command_line import exit_code

from kserve._engine import kernels
from kserve.bench.check import (
    DisagreementError,
    check_answers,
    check_encoder,
    check_gaps,
    check_lengths,
    check_listed,
    check_scores,
)
from kserve.bench.ctranslate import write_transformer
from kserve.bench.decode import Plan, run_decode
from kserve.bench.floor import LEVELS, cache_bytes, floor_of, floor_timers, working_set
from kserve.bench.kernel import KernelPlan, check_products, make_weights, run_kernel
from kserve.bench.kernel import table as kernel_table
from kserve.bench.machine import Results, percentile, spread, write_results
from kserve.bench.options import names, numbers
from kserve.bench.page import write_page
from kserve.bench.plots import draw
from kserve.bench.random_model import make_random
from kserve.bench.records import Case, Timings, summarise, table
from kserve.bench.rivals import ENGINES, TORCH, Job, Setting, make_rival
from kserve.bench.serve import run_serve
from kserve.bench.worker import Worker, WorkerFailed
from kserve.bundle import read_bundle
from kserve.errors import InvalidParameter
from kserve.train.shortlist import Shortlist

SENTENCES = tiny_bundle.SENTENCES[:4]
RESULTS = Path(__file__).parents[1] / "docs" / "benchmarks"


DECODE_KEYS = {
    "engine", "batch", "beam", "threads", "source_tokens", "target_tokens", "shortlist", "tokens_per_second",
    "p50_ms", "p99_ms", "peak_mb", "load_ms", "isa", "model_sha256",
}  # fmt: skip
KERNEL_KEYS = {
    "n", "rows", "isa", "threads", "weights_in", "kmatrix_us", "dense_fp32_us", "dense_int8_us", "floor_us",
    "reading_us", "arithmetic_us", "share_of_floor",
}  # fmt: skip


@pytest.mark.parametrize(
    "rivals",
    [
        pytest.param(ENGINES[1:], marks=pytest.mark.proof, id="every"),
        pytest.param(("kserve-dense-int8", "torch-dense", "ctranslate2-int8"), id="one-of-each"),
    ],
)
def test_rivals_are_checked_and_timed(
    rivals: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command, with processes, twins, a random model, JSON, picture and page."""
    file, plot = tmp_path / "decode.json", tmp_path / "decode.png"
    options = "--random tiny --batch 1,2 --beam 1,2 --target-length 5 --source-length 7 --repeats 2 --calls 2"
    command = ["bench", "decode", *options.split(), "--against", ",".join(rivals)]
    assert exit_code(*command, "--json", str(file), "--plot", str(plot)) == 0
    data = json.loads(file.read_text())
    searching = [rival for rival in rivals if rival not in TORCH]
    for beam, engines in ((1, ["kserve", *rivals]), (2, ["kserve", *searching])):
        assert [one["engine"] for one in data["results"] if one["beam"] == beam] == 2 * engines
    for one in data["results"]:
        assert set(one) >= DECODE_KEYS
        assert (one["source_tokens"], one["target_tokens"]) == (7, 5)
        assert one["tokens_per_second_min"] <= one["tokens_per_second"] <= one["tokens_per_second_max"]
        assert one["p50_ms"] <= one["p95_ms"] <= one["p99_ms"]
        assert one["peak_mb"] > one["base_mb"] > 10
    assert "batch 2, beam 2, one thread, 7.0 source tokens, forced to 5.0" in capsys.readouterr().out
    assert plot.read_bytes().startswith(b"\x89PNG")
    labelled, sweep = tmp_path / "labelled.json", RESULTS / "training" / "multi30k-sweep.json"
    labelled.write_text(json.dumps({**data, "label": "the first"}))
    write_page([file, labelled, sweep], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| random-tiny | 2 | 1 | 1 | 5 | ctranslate2-int8 |" in page
    assert re.search(
        r"\| the first \| \S+ \| batch 2, greedy, threads 1 \| \d+ \(\d+ … \d+\) tokens/s \|", page
    )
    assert re.search(r"\| kmatrix-distilled \| [\d.]+ \(", page)
    for picture in ("batch", "beam", "memory", "steps", "sweep"):
        assert (tmp_path / "page" / f"{picture}.png").exists()
        assert f"(page/{picture}.png)" in page


def test_a_shortlist_is_for_everybody_or_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "decode.json"
    options = "--random tiny --batch 1,3 --beam 1,2 --target-length 6 --source-length 5 --repeats 1 --calls 1"
    assert exit_code("bench", "decode", *options.split(), "--shortlist", "--json", str(file)) == 0
    records = json.loads(file.read_text())["results"]
    assert {one["engine"] for one in records} == {*ENGINES} - {*TORCH}
    assert all(one["shortlist"] for one in records)
    assert "forced to 6.0 target tokens, with a shortlist" in capsys.readouterr().out
    write_page([file], tmp_path / "page.md")
    assert "| ctranslate2-int8, shortlist |" in (tmp_path / "page.md").read_text()


def test_ctranslate2_keeps_to_the_bundles_lists(tmp_path: Path) -> None:
    """Its own translation leaves them as soon as they are not asked for."""
    model = make_random("tiny", tmp_path)
    bundle = read_bundle(model.bundle)
    lists = Shortlist(*(bundle.tensors[f"shortlist.{name}"] for name in ("first", "tokens", "always")))
    sources = [[10 + i, 50 + 3 * i, 200 - i, 2] for i in range(8)]
    rival = make_rival(
        Setting("ctranslate2-float32", write_transformer(bundle, "float32", tmp_path / "c"), 1)
    )
    left = 0
    for source in sources:
        listed = [set(lists.of(source).tolist())]
        (short,) = rival.decode(Job([source], 1, 8, shortlist=True))
        check_listed("ctranslate2-float32", [short.tokens], listed)
        (whole,) = rival.decode(Job([source], 1, 8))
        left += not set(whole.tokens) <= listed[0]
    assert left > 0


def test_a_named_bundle_ends_its_own_sentences() -> None:
    plan = Plan(against=("kserve-dense-fp32",), sentences=SENTENCES, repeats=1, calls=2)
    records = run_decode(tiny_bundle.bundle_folder(), plan)
    assert [one["engine"] for one in records] == ["kserve", "kserve-dense-fp32"]
    assert not records[0]["forced_length"]
    assert records[0]["target_tokens"] == records[1]["target_tokens"] > 1
    assert "on average" in table(records)


def test_a_wrong_answer_is_not_timed() -> None:
    with pytest.raises(DisagreementError, match="torch-dense differ on 1 of 3 sentences, first on number 2"):
        check_answers("torch-dense", [[4], [5], [6]], [[4], [0], [6]])
    with pytest.raises(DisagreementError, match="gave 2 tokens where 3 were forced"):
        check_lengths("kserve", [[1, 2, 3], [1, 2]], 3)
    with pytest.raises(DisagreementError, match=r"differ by 0\.5 of their size"):
        check_scores("kserve-dense-fp32", [-1.0, -3.0], [-1.0, -2.0])
    with pytest.raises(DisagreementError, match="is 3 standard deviations below"):
        check_gaps("torch-k", [0.0, 3.0])
    with pytest.raises(DisagreementError, match="ctranslate2-int8 gave token 9, which the sentence's"):
        check_listed("ctranslate2-int8", [[4, 5], [4, 9]], [{4, 5}, {4, 5}])
    states = np.ones((3, 4), np.float32)
    check_encoder("kserve-dense-int8", states * 1.05, states)
    for wrong in (states * 2, states * np.nan):
        with pytest.raises(DisagreementError, match="encoder's states of kserve-dense-int8 are off"):
            check_encoder("kserve-dense-int8", wrong, states)


def test_a_wrong_product_is_not_timed() -> None:
    weights = make_weights(64, 1)
    weights.words[0, 0, 0, :16] = 0
    with pytest.raises(DisagreementError, match=r"kmatrix product on \w+ of n 64, 2 rows is off by"):
        check_products(kernels.choose(), weights, np.ones((2, 64), np.float32))


def test_speed_is_tokens_over_seconds() -> None:
    summary = summarise(Timings([[0.1, 0.3], [0.2, 0.2], [0.4, 0.4]], tokens=10), batch=2)
    assert summary["tokens_per_second"] == pytest.approx(25)
    assert summary["tokens_per_second_min"] == pytest.approx(12.5)
    assert summary["p50_ms"] == pytest.approx(200)
    assert summary["target_tokens"] == pytest.approx(2.5)
    assert summary["sentences_per_second"] == pytest.approx(10)


def test_cases_are_all_combinations() -> None:
    assert Plan(batches=(1, 8), beams=(5,), target_tokens=(10, 20)).cases()[1] == Case(1, 5, 1, 20)


def test_lists_of_options() -> None:
    assert numbers("--batch", "1, 8,32") == [1, 8, 32]
    assert names("a, b,") == ["a", "b"]
    for wrong in ("", "0", "1,x", "-1"):
        with pytest.raises(InvalidParameter, match="--batch is"):
            numbers("--batch", wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--against torch-k --target-length 5", "torch-k runs on a checkpoint"),
        ("--against ctranslate2-int8", "force the length"),
        ("--against marian", "--against names marian; expected some of"),
        ("--random huge", "--random is 'huge'; expected one of: iwslt, tiny"),
        ("--random tiny --src x", "give no --bundle, no --src"),
        ("--shortlist", "has none; export it with --shortlist, or give --random"),
        ("--random tiny --shortlist --against torch-dense", "--shortlist: the torch models have none"),
        ("--batch many", "--batch is 'many'"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = [] if "--random" in options else ["--bundle", str(tiny_bundle.bundle_folder())]
    assert exit_code("bench", "decode", *bundle, *options.split()) == 2
    assert message in capsys.readouterr().err


def test_a_worker_says_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="kserve: BundleMissing: no model folder"):
        Worker(Setting("kserve", tmp_path / "nothing", 1))
    worker = Worker(Setting("kserve", tiny_bundle.bundle_folder(), 1))
    with pytest.raises(WorkerFailed, match="beam_size is 0"):
        worker.decode(Job([[5, 2]], 0, 3))
    assert len(worker.decode(Job([[5, 2]], 1, 3)).answers[0].tokens) == 3
    worker.stop()
    with pytest.raises(WorkerFailed, match="is gone"):
        worker.forget_peak()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="engine 'x' is unknown"):
        make_rival(Setting("x", Path(), 1))


def test_kernels_are_checked_and_timed(tmp_path: Path) -> None:
    records = run_kernel(KernelPlan(sizes=(16, 64), rows=(1, 3), weights_in=("L1", "L2"), repeats=1))
    assert len(records) == len(kernels.available()) * 2 * 2 * 2
    for one in records:
        assert set(one) >= KERNEL_KEYS
        assert one["floor_us"] > 0
    shown = kernel_table(records)
    assert "checked against float64" in shown
    assert len(shown.splitlines()) == len(records) + 3
    write_results(tmp_path / "k.json", Results("kernel", records))
    write_results(tmp_path / "l.json", Results("kernel", records[:1], "radix 8"))
    draw(Results("kernel", records), tmp_path / "k.png")
    write_page([tmp_path / "k.json", tmp_path / "l.json"], tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    assert "| radix 8 |" in page
    assert "![Time against n](page/kernel.png)" in page
    assert (tmp_path / "page" / "kernel.png").exists()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (KernelPlan((48,)), "--n names 48; expected powers of two"),
        (KernelPlan((64,), isas=("sse",)), "--isa names sse; this machine has"),
        (KernelPlan((64,), weights_in=("L9",)), "--weights-in names L9"),
        (KernelPlan((4096,), weights_in=("L1",), isas=("scalar",)), "fits L1; name a larger level"),
    ],
    ids=["size", "isa", "level", "too-large"],
)
def test_impossible_kernel_plans_are_refused(plan: KernelPlan, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        run_kernel(plan)


def test_the_floor_is_what_slows_more() -> None:
    layer = kernels.KMatrixLayer(512, 512)  # 288 times 16 words; 7 of 18 multiply-adds exchange lanes
    taken = {"word_nothing": 2.0, "word_widening": 3.0, "word_exchanging": 3.8}
    fast = floor_of({**taken, "read_1": 9.0, "read_2": 5.0, "read_4": 7.0}, layer, rows=2)
    assert fast.reading == 5.0
    assert fast.arithmetic == pytest.approx(288 * (2 * (2.0 + 7 / 18 * 1.8) + 1.0))
    assert fast.seconds == fast.arithmetic
    assert floor_of({**taken, **dict.fromkeys(("read_1", "read_2", "read_4"), 9e9)}, layer, 1).seconds == 9e9


def test_floor_timers_tell_seconds_of_their_calls(table: kernels.Kernels) -> None:
    words = np.zeros((40, 1, 1, kernels.KMatrixLayer(256, 256).words_per_square), np.uint32)
    for timer in floor_timers(table, words).values():
        few, many = (min(timer(calls) for _ in range(5)) for calls in (4_000, 40_000))
        assert 2 * few < many < 50 * few


def test_a_level_s_working_set_fits_it_and_no_other() -> None:
    sizes = cache_bytes()
    assert set(sizes) == set(LEVELS)
    assert sizes["L1"] < working_set("L2") < sizes["L2"] < working_set("L3") < sizes["L3"]


def test_a_page_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(InvalidParameter, match=r"x\.json is no result of a benchmark"):
        write_page([tmp_path / "x.json"], tmp_path / "page.md")
    with pytest.raises(InvalidParameter, match="no picture of the benchmark 'serve'"):
        draw(Results("serve", [{}]), tmp_path / "x.png")


def test_percentile_and_spread() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([5.0], 0.99) == 5.0
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_results_name_the_machine(tmp_path: Path) -> None:
    write_results(tmp_path / "out" / "result.json", Results("decode", [{"engine": "kserve"}], "first"))
    data = json.loads((tmp_path / "out" / "result.json").read_text())
    assert data["results"] == [{"engine": "kserve"}]
    assert (data["benchmark"], data["label"]) == ("decode", "first")
    assert data["machine"]["cpu"]
    assert data["machine"]["available_isas"][-1] == "scalar"


def test_serve_checks_every_answer() -> None:
    record = run_serve(tiny_bundle.bundle_folder(), SENTENCES, requests=6, starts=2)
    assert record["requests"] == 6
    assert 0 < record["ready_seconds_min"] <= record["ready_seconds_max"]
    assert record["resident_mb"] > 10
