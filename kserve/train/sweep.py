"""`kserve sweep SWEEP.yaml`: one recipe in several variants and with several seeds, scored by the engine.

    name: multi30k
    recipe: ../../../models/multi30k-de-en/recipe.yaml    # beside the sweep's own file
    seeds: [1, 2, 3]
    tests: [multi30k-val, multi30k-test2016]
    points:                                               # what each changes in the recipe
      kmatrix: {}
      dense: {model.linear.kind: dense}

Every point and seed is a run folder of its own, so that an interrupted sweep goes on. Scores are those of
`kserve eval`, beam search, on each test; speed is the engine's, greedy, one sentence at a time on one thread,
the points taking turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from kserve.evaluate import TestSet, evaluate, read_test_set
from kserve.train.checkpoint import read_checkpoint
from kserve.train.costs import decoder_multiply_adds, linear_numbers
from kserve.train.data import Folders
from kserve.train.export import export
from kserve.train.loop import Run
from kserve.train.memory import keep_freed_memory
from kserve.train.multiply_out import multiply_out
from kserve.train.processes import joined
from kserve.train.recipe import Recipe, RecipeError, changed, read_yaml
from kserve.train.spec import RIVALS, Architecture
from kserve.translator import Translator

SPEED_SENTENCES = 100
SPEED_ROUNDS = 5


class Sweep(BaseModel):
    """A sweep's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    recipe: Path
    seeds: list[int] = Field(min_length=1)
    tests: list[str] = Field(min_length=1)
    beam_size: PositiveInt = 5
    points: dict[str, dict[str, Any]] = Field(min_length=1)


@dataclass(frozen=True)
class Point:
    """One variant with one seed: its recipe and its run folder."""

    name: str
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def bundle(self) -> Path:
        """Its model folder."""
        return self.folder / "bundle"


def load_sweep(path: Path, out: Path) -> tuple[Sweep, list[Point]]:
    """Read a sweep and make its points.

    Raises:
        RecipeError: it, its recipe or a point's changes cannot be used; the entry is named.
    """
    try:
        sweep = Sweep.model_validate(read_yaml(path))
    except ValidationError as error:
        raise RecipeError(f"sweep {path}: {error}") from error
    base = read_yaml(path.parent / sweep.recipe)
    points = []
    for name, changes in sweep.points.items():
        for seed in sweep.seeds:
            label = f"{name}-{seed}"
            recipe = changed(base, {**changes, "name": f"{sweep.name}-{label}", "training.seed": seed})
            points.append(Point(name, seed, recipe, out / label))
    return sweep, points


def run_sweep(path: Path, data: Sequence[Path], out: Path) -> list[dict[str, Any]]:
    """Train, export and score every point that is not done yet.

    Returns:
        A record for each variant: scores by seed, costs and speed.
    """
    sweep, points = load_sweep(path, out)
    folders = Folders(data)
    keep_freed_memory()
    for point in points:
        _train(point, folders)
    scores = {point.folder: _score(point, sweep, folders) for point in points}
    first = {name: next(point for point in points if point.name == name) for name in sweep.points}
    speeds = _speeds(first, _test_set(folders, sweep.tests[0], first))
    return [
        _record(name, [point for point in points if point.name == name], scores, speeds.get(name))
        for name in sweep.points
    ]


def _train(point: Point, folders: Folders) -> None:
    if not (point.folder / "final.pt").exists():
        with joined() as processes:
            run = Run(point.recipe, folders, point.folder, processes)
            run.run()
            if run.stopped:
                raise RecipeError(f"stopped in {point.folder}; run the same command again to go on")
    if not (point.bundle / "config.json").exists():
        final = multiply_out(point.folder / "final.pt", point.folder / "final-dense.pt")
        export(final, point.bundle, point.folder / "tokenizer.model")


def _test_set(folders: Folders, prefix: str, points: Mapping[str, Point]) -> TestSet:
    languages = next(iter(points.values())).recipe.languages
    return read_test_set(
        folders.find(f"{prefix}.{languages.source}"), folders.find(f"{prefix}.{languages.target}")
    )


def _score(point: Point, sweep: Sweep, folders: Folders) -> dict[str, Any]:
    translator = Translator(point.bundle, threads=1)
    results = {}
    for prefix in sweep.tests:
        test = _test_set(folders, prefix, {point.name: point})
        result = evaluate(translator, test, {"beam_size": sweep.beam_size})
        results[prefix] = {key: result[key] for key in ("bleu", "chrf", "ter", "signature")}
    return results


def _speeds(points: Mapping[str, Point], test: TestSet) -> dict[str, dict[str, float]]:
    """Greedy target tokens/s of each variant that the engine runs as it is, one thread, in turns."""
    native = {
        name: Translator(point.bundle, threads=1)
        for name, point in points.items()
        if not any(spec.kind in RIVALS for spec in _architecture(point).linear.values())
    }
    rates: dict[str, list[float]] = {name: [] for name in native}
    for _ in range(SPEED_ROUNDS):
        for name, translator in native.items():
            rates[name].append(_tokens_per_second(translator, test.source[:SPEED_SENTENCES]))
    return {
        name: {"median": statistics.median(rate), "min": min(rate), "max": max(rate)}
        for name, rate in rates.items()
    }


def _tokens_per_second(translator: Translator, sentences: Sequence[str]) -> float:
    pieces = [translator.tokenizer.pieces(translator.tokenizer.encode(text)[:-1]) for text in sentences]
    started = time.perf_counter()
    answers = [translator.translate_batch([one], beam_size=1)[0][0] for one in pieces]
    return sum(len(answer.tokens) + 1 for answer in answers) / (time.perf_counter() - started)


def _architecture(point: Point) -> Architecture:
    return Architecture.from_dict(read_checkpoint(point.folder / "final.pt")["architecture"])


def _record(
    name: str, points: Sequence[Point], scores: Mapping[Path, Any], speed: Mapping[str, float] | None
) -> dict[str, Any]:
    arch = _architecture(points[0])
    progress = [read_checkpoint(point.folder / "final.pt")["progress"] for point in points]
    tests = scores[points[0].folder]
    return {
        "point": name,
        "seeds": [point.seed for point in points],
        "linear_numbers": linear_numbers(arch),
        "decoder_multiply_adds": decoder_multiply_adds(arch),
        "tokens_per_second": speed,
        "training_seconds": [round(one["seconds"]) for one in progress],
        "target_tokens": progress[0]["target_tokens"],
        "signature": next(iter(tests.values()))["signature"],
        "bleu": {test: [scores[point.folder][test]["bleu"] for point in points] for test in tests},
        "chrf": {test: [scores[point.folder][test]["chrf"] for point in points] for test in tests},
    }
