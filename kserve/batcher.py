"""Sentences of many requests through one engine: a bounded queue, served fairly, cancelled and ended in time.

    batcher = Batcher(engine, threads=2, max_queued_tokens=50_000)
    decoded = await batcher.decode(sentences, options, deadline=5.0)
    decoded.hypotheses[0][0].tokens

Requests take turns: each gives the next free thread a few of its sentences, so that a thousand sentences of
one request do not hold up the single one of another. All bookkeeping happens on the event loop, without a
lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from kserve._engine import (
    Cancelled,
    CancelToken,
    Control,
    DecodingOptions,
    EngineError,
    Hypothesis,
    OptionError,
    Sampling,
)
from kserve.errors import DeadlineExceeded, EngineFailure, InvalidParameter, NotReady, Overloaded

_GROUP_TOKENS = 256  # source tokens that a thread takes from a request at a time
_FIRST_RATE = 5_000.0  # source tokens a second, before any were measured
_MAX_RETRY = 60  # seconds

OnToken = Callable[[int, int], None]  # sentence, token
OnSentence = Callable[[int, list[Hypothesis]], None]


class EngineLike(Protocol):
    """What is needed of an engine; several threads call it at once."""

    def translate(
        self,
        sources: Sequence[Sequence[int]],
        options: DecodingOptions,
        prefixes: Sequence[Sequence[int]] = ...,
    ) -> list[list[Hypothesis]]: ...


@dataclass(frozen=True)
class Decoded:
    """The n-best of every sentence, in order, and where the time went."""

    hypotheses: list[list[Hypothesis]]
    queue_seconds: float  # until the first sentence was begun
    decode_seconds: float  # from then on


@dataclass
class BatcherStats:
    """What happens now, and what has happened since the start."""

    queued_sentences: int = 0
    queued_tokens: int = 0
    running_sentences: int = 0
    running_batches: int = 0
    requests: int = 0  # under way
    sentences: int = 0  # done
    source_tokens: int = 0
    target_tokens: int = 0
    batches: int = 0
    rejected: int = 0
    cancelled: int = 0


@dataclass(eq=False)
class _Request:
    sentences: Sequence[Sequence[int]]
    prefixes: Sequence[Sequence[int]]
    options: DecodingOptions
    on_token: OnToken | None
    on_sentence: OnSentence | None
    asked: float
    done: asyncio.Future[None]
    waiting: deque[int] = field(default_factory=deque)
    found: dict[int, list[Hypothesis]] = field(default_factory=dict)
    cancel: CancelToken = field(default_factory=CancelToken)
    begun: float = 0.0


class Batcher:
    """One for each loaded model; used from one event loop.

    Args:
        engine: translates token ids; told to use one thread for a call.
        threads: calls at the same time.
        max_queued_tokens: source tokens that may wait. A request is refused at once if it would exceed them,
            unless nothing waits.
    """

    def __init__(self, engine: EngineLike, *, threads: int, max_queued_tokens: int) -> None:
        self._engine = engine
        self._limit = max_queued_tokens
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="engine")
        self._free = threads
        self._turns: deque[_Request] = deque()
        self._active: set[_Request] = set()
        self._stats = BatcherStats()
        self._rate = _FIRST_RATE
        self._closed = False

    async def decode(
        self,
        sentences: Sequence[Sequence[int]],
        options: DecodingOptions,
        *,
        prefixes: Sequence[Sequence[int]] = (),
        deadline: float | None = None,
        client: str = "",  # noqa: ARG002 - turns are by request; this is for a rule by client
        on_token: OnToken | None = None,
        on_sentence: OnSentence | None = None,
    ) -> Decoded:
        """Translate the sentences (token ids, the end id last).

        Args:
            prefixes: ids that each translation begins with, or none.
            deadline: seconds from now.
            on_token, on_sentence: called on the event loop with what is found, as it is found.

        Raises:
            Overloaded: the queue has no room.
            DeadlineExceeded: time is up.
            NotReady: the batcher is closing.
        """
        if self._closed:
            raise NotReady("the server is stopping; try again in a moment")
        self._admit(sum(map(len, sentences)))
        if not sentences:
            return Decoded([], 0.0, 0.0)
        done = asyncio.get_running_loop().create_future()
        request = _Request(sentences, prefixes, options, on_token, on_sentence, time.perf_counter(), done)
        return await self._served(request, deadline)

    async def close(self, timeout: float) -> None:
        """Refuse new work, finish what was accepted within `timeout` seconds, and end the threads."""
        self._closed = True
        waiting = [request.done for request in self._active]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
        for request in list(self._active):
            _fail(request, DeadlineExceeded("the server is stopping; send the request again"))
            self._drop(request)
        # Cancelled calls end within a decoder step.
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)

    def stats(self) -> BatcherStats:
        """Numbers of this moment."""
        self._stats.requests = len(self._active)
        return self._stats

    async def _served(self, request: _Request, deadline: float | None) -> Decoded:
        """Wait for a request's answers; whatever ends the wait ends its work."""
        request.waiting.extend(range(len(request.sentences)))
        self._stats.queued_sentences += len(request.sentences)
        self._stats.queued_tokens += sum(map(len, request.sentences))
        self._active.add(request)
        self._turns.append(request)
        timer = None
        if deadline is not None:
            timer = asyncio.get_running_loop().call_later(deadline, self._expire, request, deadline)
        try:
            self._dispatch()
            await request.done
        finally:
            if timer:
                timer.cancel()
            self._drop(request)
        return _decoded(request)

    def _admit(self, tokens: int) -> None:
        queued = self._stats.queued_tokens
        if queued and queued + tokens > self._limit:
            self._stats.rejected += 1
            retry = min(max(math.ceil(queued / self._rate), 1), _MAX_RETRY)
            raise Overloaded(
                f"{queued} tokens are waiting, the limit is {self._limit}; try again in {retry} s", retry
            )

    def _dispatch(self) -> None:
        """Give free threads the next sentences of the requests whose turn it is."""
        while self._free and self._turns:
            request = self._turns.popleft()
            group = self._next_group(request)
            if request.waiting:
                self._turns.append(request)
            if not group:
                continue
            self._free -= 1
            self._stats.running_sentences += len(group)
            self._stats.running_batches += 1
            request.begun = request.begun or time.perf_counter()
            loop = asyncio.get_running_loop()
            call = loop.run_in_executor(self._pool, self._translate, request, group, loop)
            call.add_done_callback(partial(self._finish, request, group))

    def _next_group(self, request: _Request) -> list[int]:
        group: list[int] = []
        tokens = 0
        while request.waiting and tokens < _GROUP_TOKENS:
            number = request.waiting.popleft()
            group.append(number)
            tokens += len(request.sentences[number])
        self._stats.queued_sentences -= len(group)
        self._stats.queued_tokens -= tokens
        return group

    def _translate(
        self, request: _Request, group: list[int], loop: asyncio.AbstractEventLoop
    ) -> tuple[list[list[Hypothesis]], float]:
        """In a thread: one call of the engine, and its seconds."""
        started = time.perf_counter()
        call = request.on_token

        def tell(at: int, token: int) -> None:
            assert call
            loop.call_soon_threadsafe(call, group[at], token)

        control = Control(request.cancel, on_token=tell if call else None)
        options = _with_control(request.options, control, group[0])
        prefixes = [request.prefixes[number] for number in group] if any(request.prefixes) else []
        found = self._engine.translate([request.sentences[number] for number in group], options, prefixes)
        return found, time.perf_counter() - started

    def _finish(
        self,
        request: _Request,
        group: list[int],
        call: asyncio.Future[tuple[list[list[Hypothesis]], float]],
    ) -> None:
        self._free += 1
        self._stats.running_sentences -= len(group)
        self._stats.running_batches -= 1
        error = None if call.cancelled() else call.exception()
        if error is not None:
            if not isinstance(error, Cancelled):
                _fail(request, _ours(error))
        elif not call.cancelled():
            self._deliver(request, group, *call.result())
        if not self._closed or self._active:
            self._dispatch()

    def _deliver(
        self, request: _Request, group: list[int], found: list[list[Hypothesis]], seconds: float
    ) -> None:
        tokens = sum(len(request.sentences[number]) for number in group)
        self._rate += 0.1 * (tokens / max(seconds, 1e-6) - self._rate)
        self._stats.batches += 1
        self._stats.sentences += len(group)
        self._stats.source_tokens += tokens
        self._stats.target_tokens += sum(len(one[0].tokens) for one in found if one)
        for number, hypotheses in zip(group, found, strict=True):
            request.found[number] = hypotheses
            if request.on_sentence and not request.done.done():
                request.on_sentence(number, hypotheses)
        if len(request.found) == len(request.sentences) and not request.done.done():
            request.done.set_result(None)

    def _expire(self, request: _Request, deadline: float) -> None:
        _fail(
            request, DeadlineExceeded(f"the translation took longer than {deadline:g} s; send less at once")
        )

    def _drop(self, request: _Request) -> None:
        """Forget a request; what it has in threads ends within a decoder step."""
        if request not in self._active:
            return
        self._active.discard(request)
        if len(request.found) < len(request.sentences):
            self._stats.cancelled += 1
            request.cancel.cancel()
        self._stats.queued_sentences -= len(request.waiting)
        self._stats.queued_tokens -= sum(len(request.sentences[number]) for number in request.waiting)
        request.waiting.clear()


def _fail(request: _Request, error: BaseException) -> None:
    if not request.done.done():
        request.done.set_exception(error)


def _decoded(request: _Request) -> Decoded:
    now = time.perf_counter()
    hypotheses = [request.found[number] for number in range(len(request.sentences))]
    return Decoded(hypotheses, request.begun - request.asked, now - request.begun)


def _ours(error: BaseException) -> BaseException:
    if isinstance(error, OptionError):
        return InvalidParameter(str(error))
    return EngineFailure(str(error)) if isinstance(error, EngineError) else error


def _with_control(options: DecodingOptions, control: Control, first: int) -> DecodingOptions:
    """The options with another control; draws are numbered by the sentence's place in its request."""
    sampling = options.sampling
    if sampling is not None:
        sampling = Sampling(
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.seed,
            sampling.first_sentence + first,
        )
    return DecodingOptions(
        beam_size=options.beam_size,
        n_best=options.n_best,
        length_penalty=options.length_penalty,
        max_length=options.max_length,
        max_length_ratio=options.max_length_ratio,
        max_length_extra=options.max_length_extra,
        max_batch_tokens=options.max_batch_tokens,
        rules=options.rules,
        constraints=options.constraints,
        sampling=sampling,
        attention=options.attention,
        attention_layer=options.attention_layer,
        control=control,
    )
