"""Training end to end on a few made-up sentences: learning, resuming, killing, several processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import TRAIN, recipe_dict, start, write_recipe

from kserve.tokenizer import BEGIN, PADDING
from kserve.train.batches import Schedule, StepPlan, make_batch, plan_batches
from kserve.train.checkpoint import average_weights
from kserve.train.data import Corpora, encode_pairs
from kserve.train.loop import train
from kserve.train.optimizer import learning_rate
from kserve.train.recipe import Training


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
        tmp_path,
        recipe_dict(steps=120, learning_rate=2e-2, twiddle_rate=1.0, save_every=30, validate_every=60),
    )
    final = train(recipe, [text], tmp_path / "run")
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
    run = start(write_recipe(tmp_path, recipe), text, tmp_path / "run")
    assert precision in run.describe()
    run.run()
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        losses = [float(row["nll"]) for row in csv.DictReader(file)]
    assert losses[1] < 0.9 * losses[0]


def test_resuming_gives_the_same_weights_bit_for_bit(text: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, recipe_dict(batches_per_step=2))
    start(recipe, text, tmp_path / "whole").run()
    first = start(recipe, text, tmp_path / "parts")
    update = first.update

    def stop_after_five(plan: StepPlan) -> tuple[torch.Tensor, float]:
        if first.progress.step == 4:
            first.stopped = True
        return update(plan)

    first.update = stop_after_five  # type: ignore[method-assign]
    first.run()
    assert first.progress.step == 5
    start(recipe, text, tmp_path / "parts").run()
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
    run = start(recipe, text, folder)
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


def test_averaging_is_the_mean(tmp_path: Path) -> None:
    paths = [tmp_path / f"{value}.pt" for value in (1, 2, 6)]
    for path, value in zip(paths, (1.0, 2.0, 6.0), strict=True):
        torch.save({"model": {"w": torch.full((2,), value)}, "architecture": {}, "progress": {}}, path)
    assert torch.equal(average_weights(paths)["w"], torch.full((2,), 3.0))


def test_learning_rate_schedule() -> None:
    training = Training(steps=1000, learning_rate=1.0, warmup_steps=100, cooldown=0.5)
    assert learning_rate(50, training) == pytest.approx(0.5)
    assert learning_rate(100, training) == pytest.approx(1.0)
    assert learning_rate(400, training) == pytest.approx(0.5)
    assert learning_rate(1000, training) == 0


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
    for offsets in (corpora.source_offsets, corpora.target_offsets):
        assert all(np.diff(offsets)[rows].sum() <= 100 for rows in plan)
    filled = [
        max(np.diff(corpora.source_offsets)[rows].sum(), np.diff(corpora.target_offsets)[rows].sum())
        for rows in plan
    ]
    assert np.mean(filled) > 85
    next_epoch = plan_batches(corpora, 100, seed=1, epoch=1)
    assert [rows.tolist() for rows in plan] != [rows.tolist() for rows in next_epoch]


def test_a_batch_holds_its_sentences_one_after_the_other() -> None:
    corpora = random_corpora(30)
    batch = make_batch(corpora, np.array([4, 17, 9]), torch.device("cpu"))
    offsets = corpora.target_offsets
    wanted = [corpora.target_ids[offsets[row] : offsets[row + 1]].tolist() for row in (4, 17, 9)]
    assert batch.target_tokens == sum(map(len, wanted))
    assert batch.target_out[: batch.target_tokens].tolist() == [i for ids in wanted for i in ids]
    assert batch.target_in[: batch.target_tokens].tolist() == [
        i for ids in wanted for i in [BEGIN, *ids[:-1]]
    ]
    assert len(batch.target_out) % 64 == 0
    assert set(batch.target_out[batch.target_tokens :].tolist()) <= {-1}
    assert set(batch.target_in[batch.target_tokens :].tolist()) <= {PADDING}


def test_steps_from_a_position_continue_the_same_order() -> None:
    schedule = Schedule(random_corpora(60), 100, 3, seed=1)
    whole = list(islice(schedule.steps_from((0, 0)), 30))
    resumed = list(islice(schedule.steps_from(whole[11].after), 18))
    assert whole[-1].after[0] > 1, "more than an epoch"
    for left, right in zip(whole[12:], resumed, strict=True):
        assert left.after == right.after
        assert [rows.tolist() for rows in left.batches] == [rows.tolist() for rows in right.batches]


def test_long_pairs_are_counted(text: Path, tmp_path: Path) -> None:
    run = start(write_recipe(tmp_path, recipe_dict(steps=1)), text, tmp_path / "run")
    pairs = [("der Hund schläft.", "the dog sleeps."), ("der Hund " * 40, "the dog " * 40)]
    corpora, dropped = encode_pairs(pairs, run.tokenizer, 40)
    assert (len(corpora), dropped) == (1, 1)


def test_the_run_folder_can_be_read_only_where_nothing_is_written(text: Path, tmp_path: Path) -> None:
    """A data folder without write permission is fine: everything goes to the run folder."""
    os.chmod(text, 0o555)
    try:
        start(write_recipe(tmp_path, recipe_dict(steps=1)), text, tmp_path / "run").run()
    finally:
        os.chmod(text, 0o755)


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_processes_train_as_one_does_with_twice_the_batches(text: Path, tmp_path: Path) -> None:
    """torchrun over gloo: the same losses, dropout included, and the same weights but for rounding."""
    recipe = write_recipe(tmp_path, recipe_dict(batches_per_step=2, save_every=1, average_last=1))
    start(recipe, text, tmp_path / "one").run()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "kserve", "train", str(recipe), "--data", str(text), "--out", str(tmp_path / "two")]
    done = subprocess.run([*torchrun, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "processes 2" in done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    one, two = (weights_of(tmp_path / name / "final.pt") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=2e-3)


def test_what_ran_is_written_down(text: Path, tmp_path: Path) -> None:
    for precision, path in (
        ("float32", "the butterfly kernel"),
        ("bfloat16", "dense weights built once a batch"),
    ):
        recipe = write_recipe(tmp_path, recipe_dict(steps=1, precision=precision))
        run = start(recipe, text, tmp_path / precision)
        run.run()
        facts = json.loads((tmp_path / precision / "run.json").read_text())
        assert facts["k_matrices"] == f"14 layers by {path}"
        assert path in run.describe()
