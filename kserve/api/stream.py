"""A translation as server-sent events: tokens and sentences as they are found, then the whole answer."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from starlette.responses import StreamingResponse

from kserve.api import v1
from kserve.api.bundles import Loaded
from kserve.api.service import Answered, Ask, Service
from kserve.errors import answer_for
from kserve.results import Decoding
from kserve.text.sentence import Sentence
from kserve.tokenizer import clean

_SAMPLING = ("temperature", "top_k", "top_p", "seed")
_BOUNDARY = "\u2581"  # what a piece of a word begins with where the text has a space


def greedy_if_open(ask: Ask) -> Ask:
    """Greedy search unless the request says otherwise: in a beam no token is final before the sentence is."""
    decoding = ask.decoding
    is_open = decoding.get("beam_size") is None and decoding.get("n_best", 1) == 1
    if not is_open or any(name in decoding for name in _SAMPLING):
        return ask
    return replace(ask, decoding=Decoding(**{**decoding, "beam_size": 1}))


async def stream(service: Service, ask: Ask) -> StreamingResponse:
    """The answer as a stream. What is refused is refused before it begins.

    Raises:
        KserveError: as `Service.translate`.
    """
    events = _Events(service, ask)
    await events.begin()
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events.read(), media_type="text/event-stream", headers=headers)


class _Events:
    """A translation under way, and what is to be told of it."""

    def __init__(self, service: Service, ask: Ask) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._started = time.perf_counter()
        single = ask.decoding.get("beam_size") == 1 or any(name in ask.decoding for name in _SAMPLING)
        tell_token = self._token if single and ask.decoding.get("n_best", 1) == 1 else None
        self._ask = replace(ask, tell_token=tell_token, tell_sentence=self._sentence)
        self._task = asyncio.create_task(service.translate(self._ask))
        self._task.add_done_callback(lambda _: self._queue.put_nowait(None))
        self._first: bytes | None = None

    async def begin(self) -> None:
        """Wait for the first event; raises what the translation raised before it."""
        try:
            self._first = await self._queue.get()
        except asyncio.CancelledError:
            self._task.cancel()
            raise
        if self._first is None:
            await self._task

    async def read(self) -> AsyncIterator[bytes]:
        """The events; the translation is cancelled when nobody reads them any more."""
        event = self._first
        try:
            while event is not None:
                yield event
                event = await self._queue.get()
            yield self._end()
        finally:
            self._task.cancel()

    def _end(self) -> bytes:
        error = self._task.exception()
        if error is not None:
            answer = answer_for(error)
            shown = str(error) if answer.status < 500 or answer.status == 503 else "internal error"
            return _event("error", {"error": clean(shown), "code": answer.code})
        answered: Answered = self._task.result()
        total = 1e3 * (time.perf_counter() - self._started)
        return _event("done", v1.answer(answered, self._ask, total))

    def _token(self, text: int, sentence: int, token: int, loaded: Loaded) -> None:
        piece = loaded.translator.tokenizer.pieces([token])[0].replace(_BOUNDARY, " ")
        self._queue.put_nowait(_event("token", {"text": text, "sentence": sentence, "piece": piece}))

    def _sentence(self, text: int, sentence: int, owner: Sentence) -> None:
        source = owner.units.resolve(owner.text, str)
        found = owner.units.resolve(owner.candidates[0].text, str)
        told = {"text": text, "sentence": sentence, "source": source, "translation": found}
        self._queue.put_nowait(_event("sentence", told))


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
