"""The load tests themselves, on a small model, for seconds: they judge right answers, never times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_bundle
from typer.testing import CliRunner

from kserve.bench.machine import Results, write_results
from kserve.bench.page import write_page
from loadtest import servers, trials
from loadtest.__main__ import app
from loadtest.client import Tally
from loadtest.offline import Offline
from loadtest.record import Outcome, summary
from loadtest.servers import Load, Target, run_locust
from loadtest.texts import sentences
from loadtest.traffic import SHARES, Traffic

COUNT = 150


@pytest.fixture(scope="module")
def offline() -> Offline:
    return Offline.of(tiny_bundle.bundle_folder(), COUNT)


@pytest.fixture(scope="module")
def target(offline: Offline) -> Iterator[Target]:
    with servers.kserve(offline.bundle) as running:
        yield running


def test_sentences_are_different_and_always_the_same() -> None:
    found = sentences(1_000)
    assert len(set(found)) == 1_000
    assert found == sentences(1_000)
    lengths = sorted(len(text.split()) for text in found)
    assert (lengths[0] >= 3, 9 <= lengths[500] <= 15, lengths[-1] <= 30) == (True, True, True)


def test_a_wrong_answer_is_told_from_a_right_one(offline: Offline) -> None:
    for kind in SHARES:
        sent = Traffic(offline.translations, kind, 1).next()
        texts = list(sent.expected)
        if kind == "file":
            bodies = {
                "right": "\n".join(texts),
                "order": "\n".join(texts[::-1]),
                "short": "\n".join(texts[1:]),
            }
        else:
            right: object = texts[0] if kind == "single" else texts
            others = {"order": texts[::-1], "short": texts[1:]} if kind == "array" else {"short": "nothing"}
            bodies = {
                name: json.dumps({"translatedText": one}) for name, one in {"right": right, **others}.items()
            }
        for name, body in bodies.items():
            assert (sent.fault(body.encode()) is None) == (name == "right"), (kind, name)
        assert sent.fault(b"{}") is not None


def test_a_summary_counts_refusals_and_faults_apart() -> None:
    outcomes = [
        Outcome(0, "single", 0.0, 0.010, 0.0, 200, 1, None, {"decode": 4.0}),
        Outcome(0, "single", 0.1, 0.030, 0.005, 200, 1, "got 'a'", {}),
        Outcome(0, "single", 0.2, 0.001, 0.0, 429, 1, None, {}),
    ]
    found = summary(outcomes, 5.0, 2.0)
    assert (found["accepted"], found["refused"], found["faults"]) == (2, 1, {"got 'a'": 1})
    assert (found["p50_ms"], found["p99_ms"], found["accepted_per_second"]) == (10.0, 30.0, 1.0)
    assert (found["after_sending_p99_ms"], found["sent_late_p99_ms"]) == (25.0, 5.0)
    assert found["server_p50_ms"]["decode"] == 4.0


def test_the_page_tells_of_load(tmp_path: Path) -> None:
    spread = {"median": 200.0, "min": 190.0, "max": 210.0}
    idle = {"p50_ms": 5.0, "p95_ms": 8.0, "p99_ms": 9.0}
    overload = {
        "offered_per_second": 800.0,
        "seconds": 60,
        "accepted": 9_000,
        "refused": 39_000,
        "p99_ms": 700.0,
        "after_sending_p99_ms": 650.0,
    }
    records: list[dict[str, object]] = [
        {
            "part": "curve",
            "engine": "kserve",
            "saturated_single": spread,
            "saturated_array": spread,
            "resident_mb": 90,
        },
        {"part": "overload", "idle_before": idle, "idle_after": idle, **overload},
        {"part": "soak", "resident_mb": {"1000": 90.0, "100000": 92.0}},
    ]
    write_results(tmp_path / "load.json", Results("load", records))
    write_page([tmp_path / "load.json"], tmp_path / "benchmarks.md")
    page = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    for told in (
        "| kserve | 200 (190 … 210) |",
        "benchmarks/load.png",
        "p99 700 ms (650 ms without",
        "92 MB after 100000 requests",
    ):
        assert told in page


@pytest.mark.proof
@pytest.mark.parametrize("kind", ["single", "array", "file", "mixed"])
def test_every_answer_of_a_crowd_is_right(
    offline: Offline, target: Target, tmp_path: Path, kind: str
) -> None:
    expected = offline.write(tmp_path / "expected.json")
    [closed] = run_locust(
        target, Load("ClosedUser", kind, 8, 3, warm_seconds=0), expected, tmp_path / "closed.json"
    )
    steps = run_locust(
        target, Load("OpenUser", kind, rates=[20, 40], step_seconds=1), expected, tmp_path / "open.json"
    )
    assert len(steps) == 2
    assert all(step["accepted"] > 0 and not step["faults"] for step in (closed, *steps))


@pytest.mark.proof
def test_a_wrong_answer_fails_the_run(offline: Offline, target: Target, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({text: one + "!" for text, one in offline.translations.items()}))
    with pytest.raises(RuntimeError, match="offline it is"):
        run_locust(target, Load("ClosedUser", "single", 2, 2), wrong, tmp_path / "results.json")


@pytest.mark.proof
def test_overload_is_refused_or_answered_rightly(offline: Offline, tmp_path: Path) -> None:
    found = trials.overload(offline, 2, tmp_path)
    assert found["accepted"] > 0
    assert found["faults"] == {}


@pytest.mark.proof
def test_big_arrays_beside_single_sentences(offline: Offline) -> None:
    found = trials.fairness(offline, 2)
    assert found["arrays"] > 0


def test_without_arrays_there_is_no_fairness_to_tell(
    offline: Offline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(*_: object) -> Tally:
        monkeypatch.setattr(servers, "START_SECONDS", 0.01)  # a new process takes longer to begin
        return Tally()

    monkeypatch.setattr(trials, "_while", at_once)
    with pytest.raises(RuntimeError, match=r"did not begin within 0\.01 s"):
        trials.fairness(offline, 1)


@pytest.mark.proof
def test_nothing_is_lost_or_mixed_up_in_bad_weather(offline: Offline) -> None:
    found = trials.bad_weather(offline, 10)
    assert found["faults"] == {}
    assert min(found[name] for name in ("answered", "restarts", "reloads", "aborts")) > 0


@pytest.mark.proof
def test_the_rival_answers_every_sentence(offline: Offline, tmp_path: Path) -> None:
    anything = tmp_path / "anything.json"
    anything.write_text(json.dumps(dict.fromkeys(offline.translations, "")))
    with servers.ctranslate2(offline.rival(tmp_path / "rival")) as target:
        for kind in ("single", "array"):
            [found] = run_locust(
                target, Load("ClosedUser", kind, 4, 3, warm_seconds=0), anything, tmp_path / "results.json"
            )
            assert found["accepted"] > 0


def test_the_command_explains_itself() -> None:
    done = CliRunner().invoke(app, ["--part", "nothing"])
    assert done.exit_code == 2
    assert "expected curve, overload" in " ".join(done.stderr.replace("│", " ").split())
