"""`kserve sweep`: points and seeds trained, exported, scored by the engine; and what layers cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import exit_code
from server_process import ROOT
from training_runs import recipe_dict, write_recipe, write_text

from kserve.kmatrix import KLinear
from kserve.train.checkpoint import read_checkpoint
from kserve.train.costs import decoder_multiply_adds, linear_numbers
from kserve.train.model import DynamicConvModel
from kserve.train.multiply_out import multiply_out
from kserve.train.recipe import RecipeError, changed, load_recipe
from kserve.train.spec import Architecture, LinearSpec
from kserve.train.sweep import load_sweep

POINTS: dict[str, dict[str, Any]] = {
    "kmatrix": {},
    "dense": {"model.linear.kind": "dense"},
    "lowrank": {"model.linear": {"kind": "lowrank"}},
}


def write_sweep(folder: Path, **changes: Any) -> Path:
    write_recipe(folder, recipe_dict(steps=2, save_every=1, validate_every=2))
    sweep = {"name": "tiny", "recipe": "recipe.yaml", "seeds": [1], "tests": ["valid"], "points": POINTS}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(sweep | changes, sort_keys=False))
    return path


def test_a_sweep_trains_scores_and_draws_every_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.mkdir()
    write_text(text)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "png")}
    command = ["sweep", str(write_sweep(tmp_path, seeds=[1, 2]))]
    command += ["--data", str(text), "--out", str(tmp_path / "runs")]
    command += ["--json", str(files["json"]), "--plot", str(files["png"])]
    assert exit_code(*command) == 0
    records = {record["point"]: record for record in json.loads(files["json"].read_text())["results"]}
    assert list(records) == list(POINTS)
    assert all(len(record["bleu"]["valid"]) == 2 for record in records.values())
    assert records["kmatrix"]["tokens_per_second"]["median"] > 0
    assert records["lowrank"]["tokens_per_second"] is None, "the engine has no low-rank layers"
    assert capsys.readouterr().out.count("| kmatrix |") == 1
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    seeds = [read_checkpoint(tmp_path / "runs" / f"dense-{n}" / "final.pt")["model"] for n in (1, 2)]
    assert not torch.equal(seeds[0]["embedding.weight"], seeds[1]["embedding.weight"])
    # Nothing is trained twice.
    before = (tmp_path / "runs" / "dense-1" / "final.pt").stat().st_mtime_ns
    assert exit_code(*command) == 0
    assert (tmp_path / "runs" / "dense-1" / "final.pt").stat().st_mtime_ns == before


def test_multiplied_out_rivals_compute_the_same(tmp_path: Path) -> None:
    arch = changed(recipe_dict(), {"model.sites": {"query": {"kind": "circulant"}}}).model.architecture(60)
    arch = replace(
        arch, linear={**arch.linear, "ffn_in": LinearSpec("lowrank"), "ffn_out": LinearSpec("dense")}
    )
    model = DynamicConvModel(arch)
    state = {"model": model.state_dict(), "architecture": arch.to_dict(), "progress": {}}
    torch.save(state, tmp_path / "final.pt")
    out = read_checkpoint(multiply_out(tmp_path / "final.pt", tmp_path / "dense.pt"))
    dense = Architecture.from_dict(out["architecture"])
    assert {spec.kind for spec in dense.linear.values()} == {"kmatrix", "dense"}
    copy = DynamicConvModel(dense)
    copy.load_state_dict(out["model"])
    source = torch.tensor([[5, 9, 14, 2]])
    torch.testing.assert_close(copy.encode(source), model.encode(source), rtol=1e-5, atol=1e-5)
    assert multiply_out(tmp_path / "dense.pt", tmp_path / "again.pt") == tmp_path / "dense.pt"


def test_costs_count_what_the_model_holds() -> None:
    for kind in ("kmatrix", "dense", "lowrank", "circulant"):
        arch = changed(recipe_dict(), {"model.linear": {"kind": kind}}).model.architecture(60)
        held = {name: p for name, p in DynamicConvModel(arch).named_parameters() if "layers" in name}
        numbers = sum(p.numel() for name, p in held.items() if "norm" not in name and "bias" not in name)
        assert linear_numbers(arch) == numbers
    dense = changed(recipe_dict(), {"model.linear": {"kind": "dense"}}).model.architecture(60)
    # One decoder layer of width 16, feed-forward 32, 2 heads of 3 taps: conv in and out, kernel, query, out,
    # ffn.
    assert decoder_multiply_adds(dense) == 16 * (32 + 6 + 16 + 16 + 16 + 32 + 32)
    kmatrix = changed(recipe_dict(), {}).model.architecture(60)
    layer = DynamicConvModel(kmatrix).decoder.layers[0]
    used = [
        m for name, m in layer.named_children() if isinstance(m, KLinear) and name not in ("key", "value")
    ]
    assert decoder_multiply_adds(kmatrix) == sum(one.twiddle.numel() for one in used)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": []}, "seeds"),
        ({"colour": "red"}, "colour"),
        ({"points": {"odd": {"model.heads": "many"}}}, r"model\.heads"),
        ({"recipe": "absent.yaml"}, r"absent\.yaml"),
    ],
)
def test_wrong_sweeps_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        load_sweep(write_sweep(tmp_path, **changes), tmp_path / "runs")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("models/*/*.yaml")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_recipes_and_sweeps_of_the_models_can_be_read(path: Path, tmp_path: Path) -> None:
    if path.name.startswith("sweep"):
        load_sweep(path, tmp_path)
    else:
        load_recipe(path)
