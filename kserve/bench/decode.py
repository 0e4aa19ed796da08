"""`kserve bench decode`: the engine against its rivals, each in a process of its own, answers first."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kserve.bench.check import check_answers, check_case, check_encoder, check_gaps, check_listed
from kserve.bench.records import Case, Timings, model_facts, record
from kserve.bench.rivals import CTRANSLATE2, KSERVE, SAME_WEIGHTS, TORCH, Answer, Job, Setting
from kserve.bench.worker import Worker
from kserve.bundle import Bundle, read_bundle
from kserve.errors import InvalidParameter
from kserve.tokenizer import UNKNOWN, Tokenizer
from kserve.translator import bundled_model

_PRECISIONS = {"kserve-dense-fp32": "float32", "kserve-dense-fp16": "float16", "kserve-dense-int8": "int8"}


@dataclass(frozen=True)
class Plan:
    """What to time. Source tokens count the end token, as target tokens do not."""

    batches: Sequence[int] = (1,)
    beams: Sequence[int] = (1,)
    threads: Sequence[int] = (1,)
    target_tokens: Sequence[int] = (0,)
    against: Sequence[str] = ("kserve-dense-fp32", "torch-dense")
    source_tokens: int = 23
    sentences: Sequence[str] = ()  # none: random sources of source_tokens
    calls: int = 4  # different batches in a round
    repeats: int = 5  # rounds
    isa: str = ""
    shortlist: bool = False  # every engine looks only at the tokens that the bundle lists for the source's

    def cases(self) -> list[Case]:
        """All combinations."""
        return [
            Case(*values, shortlist=self.shortlist)
            for values in itertools.product(self.batches, self.beams, self.threads, self.target_tokens)
        ]


def run_decode(bundle: Path | None, plan: Plan, checkpoint: Path | None = None) -> list[dict[str, Any]]:
    """Time the engine and its rivals alternately; a record for every engine and case.

    Args:
        bundle: The model; the bundled one when absent.
        plan: Cases, rivals and repeats.
        checkpoint: The training checkpoint of the bundle, which `torch-k` needs.

    Raises:
        DisagreementError: two engines with the same weights answer differently; nothing is timed then.
    """
    model = read_bundle(bundle or bundled_model())
    _check_plan(model, plan, checkpoint)
    sources = _sources(model, plan)
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kserve-bench-") as folder:
        files = _write_models(model, plan, checkpoint, Path(folder))
        for threads in plan.threads:
            with _workers(files, threads, plan.isa) as workers:
                _check(workers, sources, plan.shortlist)
                for case in plan.cases():
                    if case.threads == threads:
                        records += _run_case(model, workers, case, sources, plan)
    return [{**line, **model_facts(model)} for line in records]


def _check_plan(model: Bundle, plan: Plan, checkpoint: Path | None) -> None:
    unknown = sorted(set(plan.against) - {*KSERVE, *TORCH, *CTRANSLATE2})
    if unknown:
        raise InvalidParameter(
            f"--against names {', '.join(unknown)}; expected some of: "
            f"{', '.join((*KSERVE[1:], *TORCH, *CTRANSLATE2))}"
        )
    if 0 in plan.target_tokens and set(plan.against) & {*CTRANSLATE2, "torch-k"}:
        raise InvalidParameter(
            "CTranslate2 and torch-k do not have the bundle's own weights, so they end sentences elsewhere; "
            "force the length: give --target-length"
        )
    if "torch-k" in plan.against and checkpoint is None:
        raise InvalidParameter(
            "torch-k runs on a checkpoint, and a bundle holds its factors multiplied out in part; give "
            "--checkpoint, or --random"
        )
    if plan.shortlist and model.shape.shortlist is None:
        raise InvalidParameter(
            f"--shortlist: {model.path} has none; export it with --shortlist, or give --random"
        )
    if plan.shortlist and set(plan.against) & {*TORCH}:
        raise InvalidParameter("--shortlist: the torch models have none; leave them out of --against")


def _write_models(model: Bundle, plan: Plan, checkpoint: Path | None, folder: Path) -> Mapping[str, Path]:
    """The files of every engine, `kserve` first; what does not exist yet is written to the folder."""
    from kserve.bench.twin import write_twins

    files = {"kserve": model.path}
    for engine in plan.against:
        if engine in _PRECISIONS:
            files[engine] = folder / engine
        elif engine in CTRANSLATE2:
            from kserve.bench.ctranslate import write_transformer

            files[engine] = write_transformer(model, engine.partition("-")[2], folder / engine)
        else:
            files[engine] = checkpoint if engine == "torch-k" and checkpoint else model.path
    twins = {_PRECISIONS[engine]: file for engine, file in files.items() if engine in _PRECISIONS}
    if twins:
        write_twins(model, twins)
    return files


def _sources(model: Bundle, plan: Plan) -> list[list[int]]:
    """Enough sentences for the largest batch; seeded, so that every run has the same."""
    if plan.sentences:
        tokenizer = Tokenizer(model.tokenizer, model.shape.vocab_size)
        return [tokenizer.encode(text) for text in plan.sentences]
    generator = random.Random(1)
    count = max(plan.batches) * plan.calls
    return [
        [*(generator.randrange(4, model.shape.vocab_size) for _ in range(plan.source_tokens - 1)), 2]
        for _ in range(count)
    ]


@contextmanager
def _workers(files: Mapping[str, Path], threads: int, isa: str) -> Iterator[dict[str, Worker]]:
    with ExitStack() as stack:
        workers = {}
        for engine, file in files.items():
            workers[engine] = Worker(Setting(engine, file, threads, isa))
            stack.callback(workers[engine].stop)
        yield workers


def _check(workers: Mapping[str, Worker], sources: Sequence[list[int]], shortlist: bool) -> None:
    """Before anything is timed: each engine's answers, in the way that its weights allow."""
    some = sources[: min(len(sources), 20)]
    job = Job(some, shortlist=shortlist)
    wanted = [answer.tokens for answer in workers["kserve"].decode(job).answers]
    for engine, worker in workers.items():
        if engine in SAME_WEIGHTS:
            check_answers(engine, [answer.tokens for answer in worker.decode(job).answers], wanted)
        elif engine in ("kserve-dense-fp16", "kserve-dense-int8"):
            check_encoder(engine, worker.encode(some[0]), workers["kserve"].encode(some[0]))
        elif engine == "torch-k":
            gaps = [worker.worst_gap(*pair) for pair in zip(some[:3], wanted, strict=False)]
            check_gaps(engine, gaps)


def _check_lists(model: Bundle, jobs: Sequence[Job], answers: Mapping[str, Sequence[Answer]]) -> None:
    """Nobody looked further than the lists. CTranslate2 puts those of a whole batch together."""
    from kserve.train.shortlist import Shortlist

    lists = Shortlist(*(model.tensors[f"shortlist.{name}"] for name in ("first", "tokens", "always")))
    for engine, found in answers.items():
        allowed: list[set[int]] = []
        for job in jobs:
            single = [set(lists.of(source).tolist()) for source in job.sources]
            # It knows no unknown token that is never produced.
            together = set().union({UNKNOWN}, *single)
            allowed += [together] * len(single) if engine in CTRANSLATE2 else single
        check_listed(engine, [answer.tokens for answer in found], allowed)


def _run_case(
    model: Bundle, workers: Mapping[str, Worker], case: Case, sources: Sequence[list[int]], plan: Plan
) -> list[dict[str, Any]]:
    """Time one case on every engine that can do it, in turn within every round."""
    able = {name: worker for name, worker in workers.items() if case.beam == 1 or name not in TORCH}
    jobs = [
        Job(
            [sources[(call * case.batch + i) % len(sources)] for i in range(case.batch)],
            case.beam,
            case.target_tokens,
            case.shortlist,
        )
        for call in range(plan.calls)
    ]
    timings = {name: Timings() for name in able}
    answers: dict[str, list[Answer]] = {}
    for name, worker in able.items():
        worker.forget_peak()
        answers[name] = [answer for job in jobs for answer in worker.decode(job).answers]  # also warms up
    check_case(case, answers)
    if case.shortlist:
        _check_lists(model, jobs, answers)
    for _ in range(plan.repeats):
        for name, worker in able.items():
            timings[name].seconds.append([worker.decode(job).seconds for job in jobs])
    for name, worker in able.items():
        timings[name].peak_bytes = worker.peak_bytes()
        # The end token costs a step too; a forced length has none.
        timings[name].tokens = sum(len(answer.tokens) + (not case.target_tokens) for answer in answers[name])
    source_tokens = sum(len(source) for job in jobs for source in job.sources) / (len(jobs) * case.batch)
    return [
        {**record(name, worker.loaded, case, timings[name]), "source_tokens": source_tokens}
        for name, worker in able.items()
    ]
