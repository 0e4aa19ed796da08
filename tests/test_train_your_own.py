"""docs/train-your-own.md, followed on a little text: every command in its order, up to the server."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from server_process import ROOT, serving
from training_runs import write_text

from kserve.train.recipe import changed, load_recipe, parse_recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "train-your-own.md"
SMALL = {
    "vocabulary.size": 60,
    "model.d_model": 16,
    "model.d_ffn": 32,
    "model.heads": 2,
    "model.encoder_kernels": [3],
    "model.decoder_kernels": [3],
    "training.steps": 40,
    "training.batch_tokens": 120,
    "training.save_every": 20,
    "training.validate_every": 40,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> list[list[str]]:
    """The `kserve` and `torchrun` commands of the page, split into words."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [one for one in words if one and one[0] in ("kserve", "torchrun")]


def test_the_recipes_of_the_page_are_valid() -> None:
    recipe, _, tuned = (yaml.safe_load(block) for block in blocks("yaml"))
    assert parse_recipe(recipe, "the page's").model.linear.kind == "kmatrix"
    shipped = load_recipe(ROOT / "models" / "de-en" / "recipe.yaml")
    assert parse_recipe(tuned, "the page's").model == shipped.model


def write_recipes(folder: Path) -> None:
    """The recipes of the page, with small sizes; the teacher is my.yaml, trained before."""
    base, student, tuned = (yaml.safe_load(block) for block in blocks("yaml"))
    recipes = {"my": base, "student": base | {"data": base["data"] | student["data"]}, "tuned": tuned}
    for name, data in recipes.items():
        small = changed(data, SMALL | {"training.batches_per_step": 2, "name": name})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(small.model_dump(mode="json")))


def run(folder: Path, words: list[str]) -> None:
    program = {
        "kserve": [sys.executable, "-m", "kserve"],
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone"],
    }[words[0]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*program, *words[1:]], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"


@pytest.mark.proof
def test_the_page_leads_to_a_server(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    write_text(text)
    for code in ("de", "en"):
        (tmp_path / f"test.{code}").write_bytes((text / f"valid.{code}").read_bytes())
    (text / "mono.de").write_bytes((text / "train.de").read_bytes())
    write_recipes(tmp_path)
    *steps, serve = commands()
    assert [words[0] for words in steps].count("torchrun") == 1
    for words in steps:
        if words[1:2] == ["export"] and words[2].startswith("runs/teacher"):
            (tmp_path / "runs" / "my").rename(tmp_path / "runs" / "teacher")
        run(tmp_path, words)
        if words[1:2] == ["distill"]:  # stands in for the model that ships
            (tmp_path / "models" / "teacher").rename(tmp_path / "models" / "de-en")
    bundle = tmp_path / serve[serve.index("--bundle") + 1]
    assert "score" in (bundle / "config.json").read_text()
    query = {"q": "der Hund schläft.", "source": "de", "target": "en"}
    with serving(bundle) as server, server.client() as client:
        answer = client.post("/translate", json=query)
    assert answer.status_code == 200
    assert isinstance(answer.json()["translatedText"], str)
