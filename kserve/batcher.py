"""Sentences of many requests through one engine: a bounded queue, served fairly, cancelled and ended in time.

    batcher = Batcher(engine, threads=2, max_queued_tokens=50_000)
    decoded = await batcher.decode(sentences, options, deadline=5.0)
    decoded.hypotheses[0][0].tokens

The engine's own threads decode (cpp/engine/batcher.h): sentences join and leave their batches at every step,
and requests take turns. They never touch Python; what has happened is collected on the event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kserve import _engine
from kserve._engine import BatchEvent, DecodingOptions, EngineError, Hypothesis, OptionError
from kserve.errors import DeadlineExceeded, EngineFailure, InvalidParameter, NotReady, Overloaded

_FIRST_RATE = 5_000.0  # source tokens a second, before any were measured
_MAX_RETRY = 60  # seconds

OnToken = Callable[[int, int], None]  # sentence, token
OnSentence = Callable[[int, list[Hypothesis]], None]


@dataclass(frozen=True)
class Decoded:
    """The n-best of every sentence, in order, and where the time went."""

    hypotheses: list[list[Hypothesis]]
    queue_seconds: float  # until the first sentence was begun
    decode_seconds: float  # from then on


@dataclass(frozen=True)
class BatcherStats:
    """What happens now, and what has happened since the start."""

    queued_sentences: int
    queued_tokens: int
    running_sentences: int
    running_rows: int  # hypotheses in the last decoder step
    requests: int  # under way
    sentences: int  # done
    source_tokens: int
    target_tokens: int
    steps: int  # decoder steps
    rows: int  # hypotheses in all of them
    rejected: int
    cancelled: int


@dataclass(eq=False)
class _Request:
    sentences: int
    on_token: OnToken | None
    on_sentence: OnSentence | None
    done: asyncio.Future[None]
    asked: float = field(default_factory=time.perf_counter)
    found: dict[int, list[Hypothesis]] = field(default_factory=dict)
    queue_seconds: float = math.inf


class Batcher:
    """One for each loaded model; used from one event loop.

    Args:
        engine: translates token ids.
        threads: sentences are decoded by so many threads.
        max_queued_tokens: source tokens that may wait. A request is refused at once if it would exceed them,
            unless nothing waits.
    """

    def __init__(self, engine: _engine.Engine, *, threads: int, max_queued_tokens: int) -> None:
        self._batcher = _engine.Batcher(engine, threads)
        self._limit = max_queued_tokens
        self._requests: dict[int, _Request] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._descriptor = self._batcher.descriptor
        self._rejected = self._cancelled = 0
        self._rate, self._measured = _FIRST_RATE, (time.perf_counter(), 0)
        self._last: _engine.BatchStats | None = None  # once it is closed
        self._closed = False

    async def decode(
        self,
        sentences: Sequence[Sequence[int]],
        options: DecodingOptions,
        *,
        prefixes: Sequence[Sequence[int]] = (),
        deadline: float | None = None,
        on_token: OnToken | None = None,
        on_sentence: OnSentence | None = None,
    ) -> Decoded:
        """Translate the sentences (token ids, the end id last).

        Args:
            sentences: what to translate.
            options: how; their control is not used.
            prefixes: ids that each translation begins with, or none.
            deadline: seconds from now.
            on_token, on_sentence: called on the event loop with what is found, as it is found.

        Raises:
            Overloaded: the queue has no room.
            DeadlineExceeded: time is up.
            InvalidParameter: an option has an impossible value.
            NotReady: the batcher is closing.
        """
        if self._closed:
            raise NotReady("the server is stopping; try again in a moment")
        self._admit(sum(map(len, sentences)))
        if not sentences:
            return Decoded([], 0.0, 0.0)
        request = _Request(len(sentences), on_token, on_sentence, self._listen().create_future())
        number = self._submit(sentences, options, prefixes if any(prefixes) else (), on_token is not None)
        self._requests[number] = request
        # A timer of our own: asyncio's wait_for waits for the future to be cancelled, and takes longer.
        timer = None if deadline is None else self._listen().call_later(deadline, _expire, request, deadline)
        try:
            await request.done
        finally:
            if timer is not None:
                timer.cancel()
            self._forget(number)
        return _decoded(request)

    async def close(self, timeout: float) -> None:
        """Refuse new work, finish what was accepted within `timeout` seconds, and end the threads."""
        self._closed = True
        waiting = [request.done for request in self._requests.values()]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        for number, request in list(self._requests.items()):
            _fail(request, DeadlineExceeded("the server is stopping; send the request again"))
            self._forget(number)
        if self._loop is not None:
            self._loop.remove_reader(self._descriptor)
        if self._last is None:
            self._last = self._batcher.stats
        # The threads end within a decoder step.
        await asyncio.get_running_loop().run_in_executor(None, self._batcher.stop)

    def stats(self) -> BatcherStats:
        """Numbers of this moment."""
        now = self._last or self._batcher.stats
        return BatcherStats(
            queued_sentences=now.queued_sentences,
            queued_tokens=now.queued_tokens,
            running_sentences=now.running_sentences,
            running_rows=now.running_rows if now.running_sentences else 0,
            requests=len(self._requests),
            sentences=now.sentences,
            source_tokens=now.source_tokens,
            target_tokens=now.target_tokens,
            steps=now.steps,
            rows=now.rows,
            rejected=self._rejected,
            cancelled=self._cancelled,
        )

    def _listen(self) -> asyncio.AbstractEventLoop:
        """The running loop, which from now on collects what happens."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            loop.add_reader(self._descriptor, self._collect)
        return loop

    def _submit(
        self,
        sentences: Sequence[Sequence[int]],
        options: DecodingOptions,
        prefixes: Sequence[Sequence[int]],
        tells_tokens: bool,
    ) -> int:
        try:
            return self._batcher.submit(sentences, options, prefixes, tells_tokens)
        except OptionError as error:
            raise InvalidParameter(str(error)) from None
        except EngineError as error:
            raise EngineFailure(str(error)) from None

    def _admit(self, tokens: int) -> None:
        stats = self._batcher.stats
        if not stats.queued_tokens or stats.queued_tokens + tokens <= self._limit:
            return
        self._rejected += 1
        then, done = self._measured
        now = time.perf_counter()
        if now - then > 1.0:
            self._rate = max((stats.source_tokens - done) / (now - then), 1.0)
            self._measured = now, stats.source_tokens
        retry = min(max(math.ceil(stats.queued_tokens / self._rate), 1), _MAX_RETRY)
        raise Overloaded(
            f"{stats.queued_tokens} tokens are waiting, the limit is {self._limit}; try again in {retry} s",
            retry,
        )

    def _collect(self) -> None:
        for event in self._batcher.collect():
            request = self._requests.get(event.request)
            if request is not None and not request.done.done():
                self._take(request, event)

    def _take(self, request: _Request, event: BatchEvent) -> None:
        if event.kind == "token":
            if request.on_token:
                request.on_token(event.sentence, event.token)
        elif event.kind == "failure":
            _fail(request, EngineFailure(event.message))
        else:
            request.found[event.sentence] = found = event.hypotheses
            request.queue_seconds = min(request.queue_seconds, event.queue_seconds)
            if request.on_sentence:
                request.on_sentence(event.sentence, found)
            if len(request.found) == request.sentences and not request.done.done():
                request.done.set_result(None)

    def _forget(self, number: int) -> None:
        """What it has in threads ends within a decoder step."""
        request = self._requests.pop(number, None)
        if request is not None and len(request.found) < request.sentences:
            self._cancelled += 1
            self._batcher.cancel(number)


def _fail(request: _Request, error: BaseException) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _expire(request: _Request, seconds: float) -> None:
    _fail(request, DeadlineExceeded(f"the translation took longer than {seconds:g} s; send less at once"))


def _decoded(request: _Request) -> Decoded:
    taken = time.perf_counter() - request.asked
    hypotheses = [request.found[number] for number in range(request.sentences)]
    return Decoded(hypotheses, request.queue_seconds, max(taken - request.queue_seconds, 0.0))
