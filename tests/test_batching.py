"""A translation does not depend on what is translated beside it, in which order, or on how many threads."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_models import SmallModel, sentences, small_model

from kserve import _engine

# Every number of a hypothesis, so that equality is equality of all bits.
Exact = tuple[list[int], float, float, list[float], tuple[bool, bool, bool], bytes]


def exact(hypothesis: _engine.Hypothesis) -> Exact:
    return (
        hypothesis.tokens,
        hypothesis.score,
        hypothesis.log_probability,
        hypothesis.token_log_probabilities,
        (hypothesis.truncated, hypothesis.looped, hypothesis.timed_out),
        b"" if hypothesis.attention is None else hypothesis.attention.tobytes(),
    )


def translate(
    engine: _engine.Engine, sources: list[list[int]], beam: int, group: int = 4096
) -> list[list[Exact]]:
    options = _engine.DecodingOptions(beam_size=beam, n_best=beam, max_batch_tokens=group)
    return [[exact(h) for h in hypotheses] for hypotheses in engine.translate(sources, options)]


def one_by_one(model: SmallModel, isa: str, sources: list[list[int]], beam: int) -> list[list[Exact]]:
    engine = model.engine(isa)
    return [translate(engine, [source], beam)[0] for source in sources]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [7, 64])
@pytest.mark.parametrize("beam", [1, 3])
def test_batch_equals_singles(beam: int, batch: int, threads: int, isa: str) -> None:
    model = small_model("kmatrix")
    sources = sentences(64, model.sizes.vocab_size)
    expected = one_by_one(model, isa, sources, beam)
    order = list(range(64))
    random.Random(batch).shuffle(order)
    engine = model.engine(isa, threads)
    for start in range(0, 64, batch):
        part = order[start : start + batch]
        assert translate(engine, [sources[i] for i in part], beam) == [expected[i] for i in part]


def test_a_larger_batch_takes_no_more_memory() -> None:
    """Beyond a chunk of hypotheses sentences wait for a place, in the memory of those that leave."""
    model = small_model("kmatrix")
    source = [*range(4, 12), 2]
    sizes = []
    for count in (12, 60):
        engine = model.engine()
        translate(engine, [source] * count, beam=5)
        sizes.append(engine.workspace_bytes)
    assert sizes[1] <= sizes[0]


@pytest.mark.parametrize("group", [1, 100, 900])
def test_group_size_changes_nothing(group: int) -> None:
    model = small_model("mixed")
    sources = sentences(40, model.sizes.vocab_size)
    assert translate(model.engine(), sources, 2, group) == translate(model.engine(), sources, 2)


def test_dense_model_is_batch_invariant(isa: str) -> None:
    model = small_model("dense")
    sources = sentences(30, model.sizes.vocab_size)
    assert translate(model.engine(isa), sources, 2) == one_by_one(model, isa, sources, 2)


FEATURES = {
    "coverage": _engine.DecodingOptions(
        beam_size=3, n_best=3, rules=_engine.BeamRules(False, 2.0, 0.5), attention=True
    ),
    "rules": _engine.DecodingOptions(
        beam_size=3,
        n_best=3,
        constraints=_engine.Constraints(4, 0.5, [8, 30], no_repeat_ngram=2, repetition_penalty=1.3),
    ),
    "loop-guard": _engine.DecodingOptions(
        beam_size=2, n_best=2, constraints=_engine.Constraints(loop_guard=2)
    ),
    "greedy": _engine.DecodingOptions(
        attention=True,
        constraints=_engine.Constraints(suppressed=[9], no_repeat_ngram=3, repetition_penalty=1.2),
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_batch_equals_singles_with_every_feature(name: str, isa: str) -> None:
    model, options = small_model("kmatrix"), FEATURES[name]
    sources = sentences(40, model.sizes.vocab_size)
    prefixes = [[7 + row % 5] * (row % 3) for row in range(40)]
    single = model.engine(isa)
    expected = [
        [exact(one) for one in single.translate([source], options, [prefix])[0]]
        for source, prefix in zip(sources, prefixes, strict=True)
    ]
    for threads in (1, 2):
        found = model.engine(isa, threads).translate(sources, options, prefixes)
        assert [[exact(one) for one in hypotheses] for hypotheses in found] == expected


def test_scores_are_batch_invariant(isa: str) -> None:
    model = small_model("kmatrix")
    sources = sentences(40, model.sizes.vocab_size)
    targets = [source[:-1] for source in sentences(40, model.sizes.vocab_size, seed=8, longest=20)]
    single = model.engine(isa)
    expected = [single.score([source], [target])[0] for source, target in zip(sources, targets, strict=True)]
    for threads in (1, 2):
        assert model.engine(isa, threads).score(sources, targets) == expected


def test_equal_sentences_get_equal_translations() -> None:
    model = small_model("kmatrix")
    source = sentences(5, model.sizes.vocab_size)[4]
    results = translate(model.engine(), [source] * 9, 3)
    assert all(result == results[0] for result in results)


def test_calls_from_several_threads_do_not_mix() -> None:
    model = small_model("kmatrix")
    engine = model.engine(threads=2)
    parts = [sentences(20, model.sizes.vocab_size, seed) for seed in range(4)]
    expected = [translate(engine, part, 3) for part in parts]
    results: list[list[list[Exact]]] = [[] for _ in parts]

    def work(index: int) -> None:
        for _ in range(3):
            results[index] = translate(engine, parts[index], 3)
            if results[index] != expected[index]:
                return

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(parts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == expected


_FORK_SCRIPT = """
import os, signal
from small_models import sentences, small_model
from kserve import _engine
model = small_model("kmatrix")
engine = model.engine(threads=2)
sources = sentences(10, model.sizes.vocab_size)
options = _engine.DecodingOptions()
before = [h[0].tokens for h in engine.translate(sources, options)]
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = [h[0].tokens for h in engine.translate(sources, options)] == before
    os._exit(0 if same else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_forked_child_translates() -> None:
    # A process of its own: the threads of a test run should not be forked. "-W ignore": newer Pythons warn.
    command = [sys.executable, "-W", "ignore", "-c", _FORK_SCRIPT]
    package = Path(_engine.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{Path(__file__).parent}"}
    done = subprocess.run(command, env=environment, timeout=120, check=False)
    assert done.returncode == 0
