"""Training that starts from weights: those of another run, or of a model folder (fine-tuning)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import recipe_dict, start, write_recipe

from kserve.bundle import read_bundle
from kserve.train.export import export
from kserve.train.recipe import RecipeError
from kserve.train.restore import restore
from kserve.train.validation import validate

# Every kind of layer: wide and expanded K-matrices, squares smaller than a chunk (heads * taps), dense ones.
SITES = {
    "ffn_in": {"kind": "kmatrix", "width": 2},
    "conv_out": {"kind": "kmatrix", "expansion": 2},
    "query": {"kind": "dense"},
}


def recipe_of(folder: Path, **training: Any) -> Path:
    recipe = recipe_dict(**training)
    recipe["model"]["sites"] = SITES
    return write_recipe(folder, recipe)


@pytest.fixture(scope="module")
def final(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a run that has learned a little."""
    folder = tmp_path_factory.mktemp("first")
    recipe = recipe_of(folder, steps=60, learning_rate=1e-2, twiddle_rate=1.0, save_every=30)
    return start(recipe, text, folder / "run").run()


@pytest.fixture(scope="module")
def model_folder(final: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(final, tmp_path_factory.mktemp("model") / "tiny")


def state(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def test_a_run_starts_from_the_weights_of_another(text: Path, final: Path, tmp_path: Path) -> None:
    run = start(recipe_of(tmp_path, steps=6), text, tmp_path / "run", final)
    weights = state(final)["model"]
    assert all(torch.equal(weights[name], value) for name, value in run.model.state_dict().items())
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == (
        final.parent / "tokenizer.model"
    ).read_bytes()
    before, after = (state(path)["progress"] for path in (final, run.run()))
    assert (after["step"], after["steps_before"]) == (6, 60)
    assert after["target_tokens"] > before["target_tokens"]


def test_fine_tuning_starts_as_good_as_the_model_and_gets_better(
    text: Path, model_folder: Path, tmp_path: Path
) -> None:
    training = {"learning_rate": 5e-3, "twiddle_rate": 1.0, "warmup_steps": 10, "precision": "float32"}
    recipe = recipe_of(tmp_path, steps=30, **training)
    run = start(recipe, text, tmp_path / "run", model_folder)
    bundle = read_bundle(model_folder)
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == bundle.tokenizer
    before = validate(restore(bundle), run.tokenizer, run.valid)
    assert run.validate().nll == pytest.approx(before.nll, abs=1e-5)
    final = run.run()
    assert run.validate().nll < 0.9 * before.nll
    assert (state(final)["progress"]["step"], state(final)["progress"]["steps_before"]) == (30, 60)
    tuned = export(final, tmp_path / "tuned")
    assert read_bundle(tuned).config["provenance"]["trained"]["steps_before"] == 60


def test_a_stopped_fine_tuning_goes_on_without_the_model(
    text: Path, model_folder: Path, tmp_path: Path
) -> None:
    """What is in the run folder counts, not the weights that the command names."""
    recipe = recipe_of(tmp_path, steps=6)
    moved = shutil.copytree(model_folder, tmp_path / "moved")
    start(recipe, text, tmp_path / "run", moved).run()
    shutil.rmtree(moved)
    run = start(recipe, text, tmp_path / "run", moved)
    assert (run.progress.step, run.progress.steps_before) == (6, 60)


def test_the_start_has_its_share_in_the_end(text: Path, final: Path, tmp_path: Path) -> None:
    ends = []
    for share in (0.0, 0.25):
        recipe = recipe_of(tmp_path, steps=6, start_share=share)
        ends.append(state(start(recipe, text, tmp_path / f"run{share}", final).run())["model"])
    plain, mixed = ends
    for name, value in state(final)["model"].items():
        torch.testing.assert_close(mixed[name], 0.75 * plain[name] + 0.25 * value)
    bundle = export(tmp_path / "run0.25" / "final.pt", tmp_path / "mixed")
    assert "started from make up 25%" in (bundle / "README.md").read_text(encoding="utf-8")


def test_a_share_of_no_start_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"start_share mixes the weights of --weights"):
        start(recipe_of(tmp_path, steps=6, start_share=0.5), text, tmp_path / "run")


def test_the_tokenizer_of_the_weights_replaces_one_that_nothing_was_trained_with(
    text: Path, model_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, steps=6)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.model").write_bytes(b"of a run that never began")
    start(recipe, text, tmp_path / "run", model_folder)
    assert (tmp_path / "run" / "tokenizer.model").read_bytes() == read_bundle(model_folder).tokenizer


def test_weights_of_other_sizes_are_refused_by_name(text: Path, model_folder: Path, tmp_path: Path) -> None:
    recipe = recipe_dict()
    recipe["model"] |= {"d_ffn": 64, "sites": SITES}
    with pytest.raises(RecipeError, match=r"model/?.*tiny holds .* other sizes .*\(d_ffn 32 instead of 64\)"):
        start(write_recipe(tmp_path, recipe), text, tmp_path / "run", model_folder)


def test_what_holds_no_weights_is_refused(text: Path, final: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, steps=6)
    for path in (tmp_path / "absent.pt", final.parent):
        with pytest.raises(
            RecipeError, match=r"no weights at .*; give final\.pt of a run, or a model folder"
        ):
            start(recipe, text, tmp_path / "run", path)
    alone = shutil.copy(final, tmp_path / "final.pt")
    with pytest.raises(RecipeError, match=r"tokenizer\.model is missing"):
        start(recipe, text, tmp_path / "run", Path(alone))


def test_a_damaged_model_is_refused(text: Path, model_folder: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(model_folder, tmp_path / "damaged")
    with (damaged / "model.safetensors").open("r+b") as file:
        file.seek(-9, 2)
        file.write(b"?")
    with pytest.raises(RecipeError, match=r"cannot start from the model folder .*SHA-256"):
        start(recipe_of(tmp_path, steps=6), text, tmp_path / "run", damaged)
