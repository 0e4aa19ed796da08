"""Recipes, text and run folders that cannot be used: each is refused by name, and what was good is kept."""

from __future__ import annotations

import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import exit_code
from training_runs import recipe_dict, start, write_recipe

from kserve.train.data import Folders, read_pairs, read_training_pairs
from kserve.train.recipe import RecipeError, load_recipe


def test_checkpoint_of_other_sizes_is_refused(text: Path, tmp_path: Path) -> None:
    start(write_recipe(tmp_path, recipe_dict(steps=3)), text, tmp_path / "run").run()
    other = recipe_dict(steps=3)
    other["model"]["d_ffn"] = 64
    with pytest.raises(RecipeError, match="other sizes"):
        start(write_recipe(tmp_path, other), text, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"steps": 5, "dropuot": 0.1}}, "training.dropuot"),
        ({"model": {"heads": "many"}}, "model.heads"),
        ({"data": {"train": [], "valid": "valid"}}, "data.train"),
        ({"generation": {"max_source_tokens": 90}}, r"max_source_tokens=90 is above model\.max_positions=64"),
    ],
)
def test_wrong_recipe_entries_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        load_recipe(write_recipe(tmp_path, recipe_dict() | change))


def test_recipe_that_is_no_yaml_or_missing(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: [")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match=r"missing\.yaml"):
        load_recipe(tmp_path / "missing.yaml")


def test_sides_of_unequal_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_text("eins\nzwei\ndrei\n")
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(RecipeError, match=r"a\.de has 3 lines and a\.en 2.*line 3"):
        read_pairs(Folders([tmp_path]), "a", ("de", "en"))


def test_bad_bytes_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_bytes(b"eins\n\xff\n")
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(RecipeError, match=r"a\.de, line 2"):
        read_pairs(Folders([tmp_path]), "a", ("de", "en"))


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.de"):
        read_pairs(Folders([tmp_path]), "nothing", ("de", "en"))


def write_lines(folder: Path, prefix: str, german: list[str], english: list[str]) -> None:
    (folder / f"{prefix}.de").write_text("\n".join(german) + "\n", encoding="utf-8")
    (folder / f"{prefix}.en").write_text("\n".join(english) + "\n", encoding="utf-8")


def test_empty_lines_and_duplicates_are_left_out_and_counted(tmp_path: Path) -> None:
    write_lines(tmp_path, "train", ["eins", "", "zwei", "eins", "drei"], ["one", "two", " ", "one", "three"])
    pairs, counts = read_training_pairs(
        load_recipe(write_recipe(tmp_path, recipe_dict())), Folders([tmp_path])
    )
    assert pairs == [("eins", "one"), ("drei", "three")]
    assert str(counts) == "2 pairs (left out: 2 with an empty side, 1 seen before)"


def test_a_line_of_ten_thousand_tokens_is_left_out_and_counted(text: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for code in ("de", "en"):
        for prefix in ("train", "valid"):
            lines = (text / f"{prefix}.{code}").read_text(encoding="utf-8")
            (tmp_path / "data" / f"{prefix}.{code}").write_text(
                lines + "ha " * 10_000 + "\n", encoding="utf-8"
            )
    run = start(write_recipe(tmp_path, recipe_dict(steps=1)), tmp_path / "data", tmp_path / "run")
    assert str(run.counts) == "54 pairs (left out: 1 too long)"
    assert "left out: 1 too long" in run.describe()
    run.run()


def test_a_vocabulary_larger_than_the_text_gives_names_the_most(text: Path, tmp_path: Path) -> None:
    recipe = recipe_dict()
    recipe["vocabulary"]["size"] = 5000
    with pytest.raises(RecipeError, match=r"vocabulary\.size=5000.*<= \d+"):
        start(write_recipe(tmp_path, recipe), text, tmp_path / "run")


def test_text_that_is_all_too_long_is_refused(text: Path, tmp_path: Path) -> None:
    recipe = recipe_dict()
    recipe["data"]["max_tokens_per_sentence"] = 1
    with pytest.raises(RecipeError, match="no training pair is left"):
        start(write_recipe(tmp_path, recipe), text, tmp_path / "run")


def test_an_empty_validation_text_is_refused(text: Path, tmp_path: Path) -> None:
    (tmp_path / "valid.de").write_text("\n")
    (tmp_path / "valid.en").write_text("\n")
    recipe = write_recipe(tmp_path, recipe_dict())
    from kserve.train.loop import Run
    from kserve.train.processes import Processes

    with pytest.raises(RecipeError, match="validation text valid has no sentence pair"):
        Run(
            load_recipe(recipe),
            Folders([tmp_path, text]),
            tmp_path / "run",
            Processes(0, 1, torch.device("cpu")),
        )


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(text: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_dict(steps=6, save_every=2))
    run = start(recipe, text, tmp_path / "run")
    update = run.update

    def poisoned(plan: Any) -> Any:
        if run.progress.step == 4:
            with torch.no_grad():
                run.model.embedding.weight[5] = float("nan")
        return update(plan)

    run.update = poisoned  # type: ignore[method-assign]
    with pytest.raises(RecipeError, match=r"norm is nan .* at step 5 \(epoch \d+, batch \d+\)"):
        run.run()
    resumed = start(recipe, text, tmp_path / "run")
    assert resumed.progress.step == 4
    assert all(torch.isfinite(parameter).all() for parameter in resumed.model.parameters())
    assert resumed.run().exists()


def test_a_full_disk_keeps_the_checkpoint_before(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands in for the full disk: writing fails half-way."""
    recipe, folder = write_recipe(tmp_path, recipe_dict(steps=6, save_every=2)), tmp_path / "run"
    run = start(recipe, text, folder)
    update, (soft, hard) = run.update, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(plan: Any) -> Any:
        if run.progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        return update(plan)

    monkeypatch.setattr(run, "update", limited)
    try:
        with pytest.raises(RecipeError, match=r"cannot write the checkpoint .*; the one before is kept"):
            run.run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.glob("*.tmp"))
    assert start(recipe, text, folder).progress.step == 4


class Dangerous:
    """A pickle of it would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_checkpoint_that_wants_to_run_code_is_refused(text: Path, tmp_path: Path, form: str) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    if form == "torch":
        torch.save({"model": Dangerous(victim)}, folder / "checkpoint.pt")
    else:
        (folder / "checkpoint.pt").write_bytes(pickle.dumps(Dangerous(victim), protocol=2))
    with pytest.raises(RecipeError, match=r"checkpoint\.pt is no checkpoint of this program"):
        start(write_recipe(tmp_path, recipe_dict()), text, folder)
    assert not victim.exists()


def test_a_checkpoint_cut_short_is_refused(text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe = write_recipe(tmp_path, recipe_dict(steps=3))
    start(recipe, text, folder).run()
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match=r"checkpoint\.pt is no checkpoint"):
        start(recipe, text, folder)
    torch.save({"model": {}}, folder / "checkpoint.pt")
    with pytest.raises(RecipeError, match="holds no"):
        start(recipe, text, folder)


def test_batches_that_cannot_be_shared_out_are_refused(text: Path, tmp_path: Path) -> None:
    from kserve.train.loop import Run
    from kserve.train.processes import Processes

    recipe = load_recipe(write_recipe(tmp_path, recipe_dict(batches_per_step=3)))
    with pytest.raises(RecipeError, match=r"batches_per_step=3 cannot be shared out to 2 processes"):
        Run(recipe, Folders([text]), tmp_path / "run", Processes(0, 2, torch.device("cpu")))


def test_errors_of_the_command_are_one_line(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_dict()
    recipe["data"]["train"][0]["prefix"] = "absent"
    command = ["train", str(write_recipe(tmp_path, recipe)), "--data", str(text)]
    assert exit_code(*command, "--out", str(tmp_path / "run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("kserve: error: ")
    assert "absent.de" in line
