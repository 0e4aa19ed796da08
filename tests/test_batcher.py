"""The batcher on a real engine: order, fairness, limits, cancelling, deadlines, closing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from small_models import sentences, small_model

from kserve._engine import Constraints, DecodingOptions, Engine, Hypothesis, Sampling
from kserve.batcher import Batcher
from kserve.bench.machine import resident_bytes
from kserve.errors import DeadlineExceeded, InvalidParameter, NotReady, Overloaded

MODEL = small_model("kmatrix")
SOURCES = sentences(40, MODEL.sizes.vocab_size)
OPTIONS = DecodingOptions(beam_size=2, n_best=2)
LONG = DecodingOptions(beam_size=1, max_length=60, constraints=Constraints(min_length=60))
HEAVY = DecodingOptions(beam_size=16, max_length=200, max_length_ratio=100)


def drive(work: Callable[[Batcher], Awaitable[Any]], threads: int = 1, limit: int = 10_000) -> Any:
    """Run work on a batcher of its own, and close it."""

    async def main() -> Any:
        batcher = Batcher(MODEL.engine(), threads=threads, max_queued_tokens=limit)
        try:
            return await work(batcher)
        finally:
            await batcher.close(60)

    return asyncio.run(main())


def tokens(found: list[list[Hypothesis]]) -> list[list[list[int]]]:
    return [[one.tokens for one in hypotheses] for hypotheses in found]


@pytest.fixture(scope="module")
def wanted() -> list[list[list[int]]]:
    engine: Engine = MODEL.engine()
    return tokens(engine.translate(SOURCES, OPTIONS))


@pytest.mark.parametrize("threads", [1, 3])
def test_every_request_gets_its_own_answers(wanted: list[Any], threads: int) -> None:
    async def work(batcher: Batcher) -> list[Any]:
        parts = [(start, start + 1 + start % 7) for start in range(33)]
        found = await asyncio.gather(*(batcher.decode(SOURCES[a:b], OPTIONS) for a, b in parts))
        return [(tokens(one.hypotheses), wanted[a:b]) for one, (a, b) in zip(found, parts, strict=True)]

    for got, right in drive(work, threads):
        assert got == right


def test_prefixes_samples_and_nothing_at_all(wanted: list[Any]) -> None:
    prefix = wanted[3][0][:2]

    async def work(batcher: Batcher) -> tuple[Any, Any, Any]:
        prefixes: list[list[int]] = [[] for _ in SOURCES]
        prefixes[5] = prefix
        forced = await batcher.decode(SOURCES, OPTIONS, prefixes=prefixes)
        draws = DecodingOptions(sampling=Sampling(temperature=2.0, seed=3))
        sampled = [tokens((await batcher.decode(SOURCES, draws)).hypotheses) for _ in range(2)]
        return tokens(forced.hypotheses), sampled, (await batcher.decode([], OPTIONS)).hypotheses

    forced, sampled, nothing = drive(work, threads=2)
    assert forced[5][0][: len(prefix)] == prefix
    assert forced[:5] == wanted[:5]
    draws = DecodingOptions(sampling=Sampling(temperature=2.0, seed=3))
    assert sampled[0] == sampled[1] == tokens(MODEL.engine().translate(SOURCES, draws))
    assert nothing == []


def test_tokens_and_sentences_are_told_as_they_come() -> None:
    async def work(batcher: Batcher) -> tuple[Any, Any, Any]:
        told: dict[int, list[int]] = {}
        ended: list[int] = []
        decoded = await batcher.decode(
            SOURCES,
            DecodingOptions(),
            on_token=lambda at, token: told.setdefault(at, []).append(token),
            on_sentence=lambda at, _: ended.append(at),
        )
        await asyncio.sleep(0.05)
        return decoded.hypotheses, told, ended

    found, told, ended = drive(work, threads=2)
    assert sorted(ended) == list(range(len(SOURCES)))
    assert [told.get(at, []) for at in range(len(SOURCES))] == [one[0].tokens for one in found]


def test_a_single_sentence_overtakes_a_thousand() -> None:
    async def work(batcher: Batcher) -> tuple[int, int]:
        big = asyncio.create_task(batcher.decode(SOURCES * 100, HEAVY))
        await asyncio.sleep(0)
        await batcher.decode(SOURCES[:1], OPTIONS)
        left = batcher.stats().queued_sentences
        big.cancel()
        return left, batcher.stats().sentences

    left, done = drive(work, limit=100_000)
    assert left > 2000
    assert done < 1000


def test_large_requests_make_room_in_a_step_for_a_small_one() -> None:
    """Two of them, because a large request of the service comes as several."""

    async def work(batcher: Batcher) -> tuple[float, float]:
        large = [asyncio.create_task(batcher.decode(SOURCES * 20, HEAVY)) for _ in range(2)]
        while batcher.stats().steps < 50:
            await asyncio.sleep(0.001)
        before = batcher.stats()
        await batcher.decode(SOURCES[-1:], LONG)
        after = batcher.stats()
        for one in large:
            one.cancel()
        return before.rows / before.steps, (after.rows - before.rows) / (after.steps - before.steps)

    alone, beside = drive(work, limit=100_000)
    assert alone >= 2 * HEAVY.beam_size
    assert beside < alone / 2


def test_a_full_queue_says_when_there_is_room() -> None:
    async def work(batcher: Batcher) -> Overloaded:
        big = asyncio.create_task(batcher.decode(SOURCES * 50, HEAVY))  # taken: nothing was waiting
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="the limit is 100") as refused:
            await batcher.decode(SOURCES, OPTIONS)
        big.cancel()
        assert batcher.stats().rejected == 1
        return refused.value

    assert 1 <= drive(work, limit=100).retry_after <= 60


def test_cancelling_ends_the_work() -> None:
    async def work(batcher: Batcher) -> None:
        big = asyncio.create_task(batcher.decode(SOURCES * 100, HEAVY))
        while not batcher.stats().running_sentences:
            await asyncio.sleep(0.001)
        big.cancel()
        with pytest.raises(asyncio.CancelledError):
            await big
        assert batcher.stats().queued_sentences == batcher.stats().queued_tokens == 0
        await batcher.decode(SOURCES[:1], OPTIONS)  # the thread is free again
        stats = batcher.stats()
        assert (stats.running_sentences, stats.running_rows, stats.cancelled) == (0, 0, 1)

    drive(work)


def test_deadlines() -> None:
    async def work(batcher: Batcher) -> None:
        with pytest.raises(DeadlineExceeded, match=r"0\.01 s"):
            await batcher.decode(SOURCES * 100, HEAVY, deadline=0.01)
        assert len((await batcher.decode(SOURCES, OPTIONS, deadline=600)).hypotheses) == len(SOURCES)

    drive(work)


def test_impossible_options_are_told_to_the_one_who_asked(wanted: list[Any]) -> None:
    async def work(batcher: Batcher) -> Any:
        with pytest.raises(InvalidParameter):
            await batcher.decode(SOURCES, DecodingOptions(beam_size=10_000))
        return tokens((await batcher.decode(SOURCES, OPTIONS)).hypotheses)

    assert drive(work) == wanted


def test_closing_finishes_what_was_accepted(wanted: list[Any]) -> None:
    async def work(batcher: Batcher) -> Any:
        accepted = asyncio.create_task(batcher.decode(SOURCES, OPTIONS))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close(60))
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await batcher.decode(SOURCES, OPTIONS)
        await closing
        return tokens((await accepted).hypotheses)

    assert drive(work) == wanted


def test_closing_ends_in_time() -> None:
    async def work(batcher: Batcher) -> None:
        accepted = asyncio.create_task(batcher.decode(SOURCES * 500, HEAVY))
        await asyncio.sleep(0)
        await batcher.close(0.05)
        with pytest.raises(DeadlineExceeded, match="stopping"):
            await accepted

    drive(work)


def test_nothing_is_kept_of_a_request_that_is_done() -> None:
    """A few hundred bytes of each would be much after a day."""

    async def work(batcher: Batcher) -> list[int]:
        memory = []
        for _ in range(3):
            for _ in range(250):
                await asyncio.gather(*(batcher.decode(SOURCES[at : at + 1], OPTIONS) for at in range(8)))
            memory.append(resident_bytes(os.getpid()))
        return memory

    _, before, after = drive(work)
    assert after - before < 1_000_000
