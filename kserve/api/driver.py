"""Documents through one loaded model: the steps of text/job.py, awaited, with the cache between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from kserve._engine import DecodingOptions, Hypothesis
from kserve.api.bundles import Loaded
from kserve.api.cache import Cache
from kserve.errors import Overloaded
from kserve.text.blocks import Document
from kserve.text.job import ToDecode, Translated, Wish, translate
from kserve.text.sentence import Found, Sentence

# Text, sentence, the token found, and by which model; text, sentence and the sentence itself, when its
# translation is there.
TellToken = Callable[[int, int, int, Loaded], None]
TellSentence = Callable[[int, int, Sentence], None]


_CHUNK_TOKENS = 4096
_CHUNKS = 2  # under way at the same time
_PATIENCE = 0.05  # seconds between two tries


@dataclass
class Timings:
    """Seconds of a request by phase, and what it was made of."""

    queue: float = 0.0
    tokenize: float = 0.0
    decode: float = 0.0
    source_tokens: int = 0
    target_tokens: int = 0
    sentences: int = 0
    retried: int = 0
    cached: int = 0


@dataclass(frozen=True)
class Orders:
    """How to decode, for whom, and who wants to be told."""

    options: DecodingOptions
    key: Hashable  # what of the options makes a difference; None: the result is not to be remembered
    until: float  # on the clock of time.monotonic
    tell_token: TellToken | None = None
    tell_sentence: TellSentence | None = None


@dataclass
class Drive:
    """One request's way through one model."""

    loaded: Loaded
    cache: Cache[list[Hypothesis]]
    orders: Orders
    timings: Timings
    _told: set[tuple[int, int]] = field(default_factory=set)

    async def run(self, documents: Sequence[Document], wish: Wish) -> list[Translated]:
        """The translations of the documents, in order."""
        steps = translate(documents, self.loaded.codec, wish)
        found: Sequence[Sequence[Found]] | None = None
        batch: list[ToDecode] = []
        while True:
            started = time.perf_counter()
            try:
                following = steps.send(found) if found is not None else next(steps)
            except StopIteration as done:
                return list(done.value)
            finally:
                self.timings.tokenize += time.perf_counter() - started
                self._tell(batch)
            batch = following
            if batch:
                found = await self._found(batch)
            else:
                found = ()
                await asyncio.sleep(0)  # others' turn

    async def _found(self, batch: Sequence[ToDecode]) -> list[list[Hypothesis]]:
        keys = [self._key(one) for one in batch]
        known = [self.cache.get(key) if key is not None else None for key in keys]
        new = [at for at, found in enumerate(known) if found is None]
        self.timings.cached += len(batch) - len(new)
        self.timings.retried += sum(one.owner.attempts > 1 for one in batch)
        self.timings.sentences += len(batch)
        if new:
            decoded = await self._decode([batch[at] for at in new])
            for at, found in zip(new, decoded, strict=True):
                known[at] = found
                if keys[at] is not None:
                    self.cache.put(keys[at], found)
        return [found for found in known if found is not None]

    async def _decode(self, batch: Sequence[ToDecode]) -> list[list[Hypothesis]]:
        """In chunks, two at a time: a large request never fills the queue that others need, too."""
        chunks = _chunks(batch)
        if len(chunks) == 1:
            return await self._chunk(batch, waits=False)
        turns = asyncio.Semaphore(_CHUNKS)

        async def one(number: int, chunk: Sequence[ToDecode]) -> list[list[Hypothesis]]:
            async with turns:
                return await self._chunk(chunk, waits=number > 0)

        tasks = [asyncio.create_task(one(number, chunk)) for number, chunk in enumerate(chunks)]
        try:
            return [found for part in await asyncio.gather(*tasks) for found in part]
        finally:
            for task in tasks:
                task.cancel()

    async def _chunk(self, batch: Sequence[ToDecode], waits: bool) -> list[list[Hypothesis]]:
        """Some sentences; what belongs to a request that was accepted waits for room until its time is up."""
        while True:
            try:
                return await self._accepted(batch)
            except Overloaded as refused:
                if not waits or time.monotonic() + refused.retry_after > self.orders.until:
                    raise
            await asyncio.sleep(_PATIENCE)

    async def _accepted(self, batch: Sequence[ToDecode]) -> list[list[Hypothesis]]:
        orders = self.orders

        def token(at: int, number: int) -> None:
            if orders.tell_token and batch[at].is_plain:
                orders.tell_token(batch[at].text, batch[at].sentence, number, self.loaded)

        def sentence(at: int, found: list[Hypothesis]) -> None:
            one = batch[at]
            if len(one.owner.parts) == 1:
                one.owner.take([found])
                self._tell([one])

        decoded = await self.loaded.batcher.decode(
            [one.ids for one in batch],
            orders.options,
            prefixes=[one.prefix for one in batch] if any(one.prefix for one in batch) else (),
            deadline=max(orders.until - time.monotonic(), 0.0),
            on_token=token if orders.tell_token else None,
            on_sentence=sentence if orders.tell_sentence else None,
        )
        self.timings.queue += decoded.queue_seconds
        self.timings.decode += decoded.decode_seconds
        self.timings.source_tokens += sum(len(one.ids) for one in batch)
        self.timings.target_tokens += sum(len(one[0].tokens) for one in decoded.hypotheses)
        return decoded.hypotheses

    def _tell(self, batch: Sequence[ToDecode]) -> None:
        if self.orders.tell_sentence is None:
            return
        for one in batch:
            place = (one.text, one.sentence)
            if one.owner.candidates and place not in self._told:
                self._told.add(place)
                self.orders.tell_sentence(*place, one.owner)

    def _key(self, one: ToDecode) -> Hashable | None:
        if not self.cache.size or self.orders.key is None:
            return None
        return (self.loaded.identity, self.orders.key, one.prefix, tuple(one.ids))


def _chunks(batch: Sequence[ToDecode]) -> list[Sequence[ToDecode]]:
    """The sentences in order, cut after about so many tokens."""
    chunks: list[Sequence[ToDecode]] = []
    start = tokens = 0
    for at, one in enumerate(batch):
        tokens += len(one.ids)
        if tokens >= _CHUNK_TOKENS:
            chunks.append(batch[start : at + 1])
            start, tokens = at + 1, 0
    return [*chunks, batch[start:]] if start < len(batch) else chunks
