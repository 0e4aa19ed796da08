"""`kserve distill` with the bundled model as the teacher: pairs, what is left out, going on after a stop."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import exit_code

from kserve import Translator
from kserve.train import distill as module
from kserve.train.data import Folders
from kserve.train.distill import Plan, distill
from kserve.train.recipe import RecipeError
from kserve.translator import bundled_model

LONG = " ".join(["sehr"] * 300)
LINES = ["Ein Hund rennt.", "", "Das Kind schläft.", "Wo ist der Bahnhof?", LONG, "Guten Morgen!"]


@pytest.fixture(scope="module")
def teacher() -> Translator:
    return Translator(threads=1)


@pytest.fixture
def plan(teacher: Translator, tmp_path: Path) -> Plan:
    (tmp_path / "text.de").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return Plan(teacher, ["text"], Folders([tmp_path]), tmp_path / "out", beam_size=2)


def lines_of(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def test_pairs_are_what_the_teacher_says_and_the_rest_is_counted(plan: Plan, teacher: Translator) -> None:
    (outcome,) = distill(plan)["files"]
    kept = [LINES[row] for row in (0, 2, 3, 5)]
    assert lines_of(plan.out / "text-distilled.de") == kept
    wanted = [teacher.translate(line, beam_size=2, loop_guard=4).text for line in kept]
    assert lines_of(plan.out / "text-distilled.en") == wanted
    assert {key: outcome[key] for key in ("lines", "pairs", "empty", "too_long", "unfinished")} == {
        "lines": 6,
        "pairs": 4,
        "empty": 1,
        "too_long": 1,
        "unfinished": 0,
    }
    assert not list(plan.out.glob("*.part"))


def test_a_stopped_call_goes_on(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines at a time; the second time fails; the next call translates only what is missing."""
    seen: list[str] = []
    translate = module._translate

    def failing(plan: Plan, lines: Sequence[str]) -> list[dict[str, str]]:
        if seen:
            raise KeyboardInterrupt
        seen.extend(lines)
        return translate(plan, lines)

    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, "_translate", failing)
    with pytest.raises(KeyboardInterrupt):
        distill(plan)
    with (plan.out / "text-distilled.part").open("a", encoding="utf-8") as draft:
        draft.write('{"text": "cut of')  # killed while writing
    seen.clear()

    def counted(plan: Plan, lines: Sequence[str]) -> list[dict[str, str]]:
        seen.extend(lines)
        return translate(plan, lines)

    monkeypatch.setattr(module, "_translate", counted)
    resumed = distill(plan)
    assert seen == LINES[2:]
    assert resumed["files"][0]["pairs"] == 4
    assert lines_of(plan.out / "text-distilled.de")[0] == LINES[0]


def test_a_draft_of_another_beam_is_begun_anew(plan: Plan, teacher: Translator) -> None:
    plan.out.mkdir()
    head = {"model_sha256": "another", "beam_size": 2, "lines": 6}
    draft = plan.out / "text-distilled.part"
    draft.write_text(json.dumps(head) + "\n" + json.dumps({"text": "stale"}) + "\n")
    distill(plan)
    assert "stale" not in (plan.out / "text-distilled.en").read_text()


def test_files_that_would_overwrite_each_other_are_refused(plan: Plan) -> None:
    twice = Plan(plan.teacher, ["a/text", "b/text"], plan.folders, plan.out, 1)
    with pytest.raises(RecipeError, match="overwrite each other: a/text, b/text"):
        distill(twice)


def test_the_command_writes_a_summary_and_names_what_is_missing(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments: list[Any] = [bundled_model(), "text", "--data", tmp_path, "--out", tmp_path / "out"]
    command = ["distill", *map(str, arguments), "--beam", "1", "--threads", "1"]
    assert exit_code(*command, "--json", str(tmp_path / "s.json")) == 0
    assert "pairs 4" in capsys.readouterr().out
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["languages"] == ["de", "en"]
    assert summary["files"][0]["pairs"] == 4
    command[command.index("text")] = "absent"
    assert exit_code(*command) == 2
    error = capsys.readouterr().err
    assert "absent.de" in error
    assert "Traceback" not in error
