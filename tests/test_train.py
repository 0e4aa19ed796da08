"""Training end to end on a few made-up sentences: resuming, killing, bad recipes and bad data."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from kserve.train.checkpoint import average_weights
from kserve.train.data import Corpora, batches_from, encode_pairs, plan_batches, read_pairs
from kserve.train.loop import Run, learning_rate, train
from kserve.train.recipe import RecipeError, Training, load_recipe

GERMAN = ("der Hund", "die Katze", "das Kind", "ein Vogel", "mein Freund", "eine alte Frau")
ENGLISH = ("the dog", "the cat", "the child", "a bird", "my friend", "an old woman")
VERBS = (("schläft", "sleeps"), ("singt laut", "sings loudly"), ("wartet hier", "waits here"))
PLACES = (("im Garten", "in the garden"), ("am See", "by the lake"), ("zu Hause", "at home"))

# A training process of its own: recipe, data folder and run folder follow.
TRAIN = (
    sys.executable,
    "-c",
    "import sys, pathlib; from kserve.train.loop import train; train(*map(pathlib.Path, sys.argv[1:]))",
)


def recipe_dict(**training: Any) -> dict[str, Any]:
    """A recipe that trains in a second."""
    return {
        "name": "tiny",
        "languages": {"source": "de", "target": "en"},
        "data": {"train": [{"prefix": "train", "licence": "own"}], "valid": "valid"},
        "vocabulary": {"size": 60},
        "model": {
            "d_model": 16,
            "d_ffn": 32,
            "heads": 2,
            "encoder_kernels": [3],
            "decoder_kernels": [3],
            "max_positions": 64,
        },
        "training": {
            "steps": 12,
            "batch_tokens": 60,
            "warmup_steps": 4,
            "validate_every": 6,
            "save_every": 3,
            "valid_sentences": 4,
            "dropout": 0.1,
        }
        | training,
    }


def write_recipe(folder: Path, data: dict[str, Any]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with train.de/en and valid.de/en."""
    folder = tmp_path_factory.mktemp("text")
    pairs = [
        (f"{g} {v[0]} {p[0]}.", f"{e} {v[1]} {p[1]}.")
        for g, e in zip(GERMAN, ENGLISH, strict=True)
        for v in VERBS
        for p in PLACES
    ]
    for name, part in (("train", pairs), ("valid", pairs[:6])):
        for side, suffix in enumerate(("de", "en")):
            (folder / f"{name}.{suffix}").write_text(
                "\n".join(p[side] for p in part) + "\n", encoding="utf-8"
            )
    return folder


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["model"]
    return state


def assert_same_weights(left: Path, right: Path) -> None:
    first, second = weights_of(left), weights_of(right)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_training_learns_and_leaves_everything_behind(text: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path, recipe_dict(steps=120, learning_rate=2e-2, save_every=30, validate_every=60)
    )
    final = train(recipe, text, tmp_path / "run")
    assert final == tmp_path / "run" / "final.pt"
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        log = list(csv.DictReader(file))
    assert [int(row["step"]) for row in log] == [30, 60, 90, 120]
    assert float(log[-1]["nll"]) < 0.7 * float(log[0]["nll"])
    assert [bool(row["valid_bleu"]) for row in log] == [False, True, False, True]
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "run" / "weights").glob("*.pt"))) == 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["kmatrix", "dense"])
def test_each_precision_and_kind_learns(text: Path, tmp_path: Path, precision: str, kind: str) -> None:
    recipe = recipe_dict(steps=40, learning_rate=1e-2, save_every=20, precision=precision)
    recipe["model"]["linear"] = {"kind": kind}
    run = Run(load_recipe(write_recipe(tmp_path, recipe)), text, tmp_path / "run")
    assert precision in run.describe()
    run.run()
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        losses = [float(row["nll"]) for row in csv.DictReader(file)]
    assert losses[1] < 0.9 * losses[0]


def test_resuming_gives_the_same_weights_bit_for_bit(text: Path, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, recipe_dict()))
    Run(recipe, text, tmp_path / "whole").run()
    first = Run(recipe, text, tmp_path / "parts")
    update = first.update

    def stop_after_five(batch: Any) -> tuple[float, float]:
        if first.progress.step == 4:
            first.stopped = True
        return update(batch)

    first.update = stop_after_five  # type: ignore[method-assign]
    first.run()
    assert first.progress.step == 5
    Run(recipe, text, tmp_path / "parts").run()
    assert_same_weights(tmp_path / "whole" / "checkpoint.pt", tmp_path / "parts" / "checkpoint.pt")


def test_a_killed_run_resumes(text: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_dict(steps=4000, save_every=5, validate_every=2000))
    folder = tmp_path / "run"
    process = subprocess.Popen([*TRAIN, recipe, text, folder], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("weights/*.pt")) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = Run(load_recipe(recipe), text, folder)
    assert run.progress.step > 0
    assert run.progress.step % 5 == 0


def test_sigterm_saves_and_ends(text: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_dict(steps=100000, save_every=50000, validate_every=50000))
    folder = tmp_path / "run"
    with subprocess.Popen([*TRAIN, recipe, text, folder], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"step" not in process.stderr.read(64):
            pass
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(30) == 0
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["progress"]["step"] > 0


def test_checkpoint_of_other_sizes_is_refused(text: Path, tmp_path: Path) -> None:
    Run(load_recipe(write_recipe(tmp_path, recipe_dict(steps=3))), text, tmp_path / "run").run()
    other = recipe_dict(steps=3)
    other["model"]["d_ffn"] = 64
    with pytest.raises(RecipeError, match="other sizes"):
        Run(load_recipe(write_recipe(tmp_path, other)), text, tmp_path / "run")


def test_averaging_is_the_mean(tmp_path: Path) -> None:
    paths = [tmp_path / f"{value}.pt" for value in (1, 2, 6)]
    for path, value in zip(paths, (1.0, 2.0, 6.0), strict=True):
        torch.save({"model": {"w": torch.full((2,), value)}}, path)
    assert torch.equal(average_weights(paths)["w"], torch.full((2,), 3.0))


def test_learning_rate_schedule() -> None:
    training = Training(steps=1000, learning_rate=1.0, warmup_steps=100, cooldown=0.5)
    assert learning_rate(50, training) == pytest.approx(0.5)
    assert learning_rate(100, training) == pytest.approx(1.0)
    assert learning_rate(400, training) == pytest.approx(0.5)
    assert learning_rate(1000, training) == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"colour": "red"}, "colour"),
        ({"training": {"steps": 0}}, "training.steps"),
        ({"training": {"steps": 5, "dropuot": 0.1}}, "training.dropuot"),
        ({"model": {"heads": "many"}}, "model.heads"),
        ({"data": {"train": [], "valid": "valid"}}, "data.train"),
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
        read_pairs(tmp_path, "a", "de", "en")


def test_bad_bytes_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "a.de").write_bytes(b"eins\n\xff\n")
    (tmp_path / "a.en").write_text("one\ntwo\n")
    with pytest.raises(RecipeError, match=r"a\.de, line 2"):
        read_pairs(tmp_path, "a", "de", "en")


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothing\.de"):
        read_pairs(tmp_path, "nothing", "de", "en")


def random_corpora(sentences: int) -> Corpora:
    random = np.random.default_rng(3)
    lengths = random.integers(1, 20, (2, sentences))
    offsets = [np.concatenate(([0], np.cumsum(row))) for row in lengths]
    ids = [random.integers(4, 50, int(o[-1]), dtype=np.int32) for o in offsets]
    return Corpora(ids[0], offsets[0], ids[1], offsets[1])


def test_batches_cover_every_sentence_once_within_the_token_limit() -> None:
    corpora = random_corpora(500)
    plan = plan_batches(corpora, 100, seed=1, epoch=0)
    assert sorted(np.concatenate(plan)) == list(range(500))
    lengths = np.maximum(np.diff(corpora.source_offsets), np.diff(corpora.target_offsets))
    assert all(len(rows) * lengths[rows].max() <= 100 for rows in plan)
    next_epoch = plan_batches(corpora, 100, seed=1, epoch=1)
    assert [rows.tolist() for rows in plan] != [rows.tolist() for rows in next_epoch]


def test_batches_from_a_position_continue_the_same_order() -> None:
    corpora, cpu = random_corpora(60), torch.device("cpu")
    whole = list(islice(batches_from(corpora, 100, 1, (0, 0), cpu), 30))
    resumed = list(islice(batches_from(corpora, 100, 1, whole[11][0], cpu), 18))
    for (_, left), (_, right) in zip(whole[12:], resumed, strict=True):
        assert torch.equal(left.source, right.source)
        assert torch.equal(left.target_out, right.target_out)


def test_long_pairs_are_counted(text: Path, tmp_path: Path) -> None:
    run = Run(load_recipe(write_recipe(tmp_path, recipe_dict(steps=1))), text, tmp_path / "run")
    pairs = [("der Hund schläft.", "the dog sleeps."), ("der Hund " * 40, "the dog " * 40)]
    corpora, dropped = encode_pairs(pairs, run.tokenizer, 40)
    assert (len(corpora), dropped) == (1, 1)


def test_the_run_folder_can_be_read_only_where_nothing_is_written(text: Path, tmp_path: Path) -> None:
    """A data folder without write permission is fine: everything goes to the run folder."""
    os.chmod(text, 0o555)
    try:
        Run(load_recipe(write_recipe(tmp_path, recipe_dict(steps=1))), text, tmp_path / "run").run()
    finally:
        os.chmod(text, 0o755)
