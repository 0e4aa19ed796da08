"""CTranslate2 behind FastAPI: what people build today, as well as one can reasonably write it.

    KSERVE_RIVAL=FOLDER uvicorn --factory loadtest.rival:create

Sentences of all requests are batched: a worker takes what waits, up to a batch, and never waits for more.
The weights are random, so each batch is forced to the mean length of what our model makes of the same
sentences: both make the same number of tokens, and the rival's batches waste nothing on padding. It does no
sentence splitting and keeps no placeholders; that work is ours alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
from fastapi import FastAPI
from pydantic import BaseModel

from kserve.bench.ctranslate import write_transformer
from kserve.bench.rivals import VOCABULARY_START
from kserve.bundle import read_bundle
from kserve.tokenizer import END, Tokenizer

BATCH = 32  # sentences
SETTING = "KSERVE_RIVAL"
_FIRST = len(VOCABULARY_START)


class Asked(BaseModel):
    """LibreTranslate's request, as far as the load tests need it."""

    q: str | list[str]
    source: str
    target: str


@dataclass(frozen=True)
class Waiting:
    """A sentence that waits for a worker."""

    tokens: list[str]
    length: int  # target tokens
    done: asyncio.Future[str]


def prepare(folder: Path, bundle_path: Path, lengths: dict[str, int], threads: int) -> Path:
    """What the application reads: a Transformer of the bundle's sizes, its tokenizer, the lengths."""
    bundle = read_bundle(bundle_path)
    write_transformer(bundle, "int8", folder / "model")
    settings = {
        "bundle": str(bundle_path),
        "beam": bundle.generation.beam_size,
        "lengths": lengths,
        "threads": threads,
    }
    (folder / "rival.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def create() -> FastAPI:
    """The application; its folder is named by KSERVE_RIVAL."""
    batcher = Batcher(Path(os.environ[SETTING]))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ready"}

    @app.post("/translate")
    async def translate(asked: Asked) -> dict[str, str | list[str]]:
        texts = [asked.q] if isinstance(asked.q, str) else asked.q
        found = await asyncio.gather(*map(batcher.translate, texts))
        return {"translatedText": found[0] if isinstance(asked.q, str) else found}

    return app


class Batcher:
    """Sentences of all requests through one translator, a thread for each core."""

    def __init__(self, folder: Path) -> None:
        settings = json.loads((folder / "rival.json").read_text(encoding="utf-8"))
        bundle = read_bundle(Path(settings["bundle"]))
        self.tokenizer = Tokenizer(bundle.tokenizer, bundle.shape.vocab_size)
        self.beam, self.lengths, self.threads = settings["beam"], settings["lengths"], settings["threads"]
        self.translator = ctranslate2.Translator(
            str(folder / "model"), compute_type="int8", inter_threads=self.threads, intra_threads=1
        )
        self.waiting: queue.SimpleQueue[Waiting] = queue.SimpleQueue()

    def start(self) -> None:
        """From within the event loop."""
        self.loop = asyncio.get_running_loop()
        for _ in range(self.threads):
            threading.Thread(target=self._work, daemon=True).start()

    async def translate(self, text: str) -> str:
        """One sentence."""
        words = ["</s>" if one == END else f"w{one - _FIRST}" for one in self.tokenizer.encode(text)]
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.waiting.put(Waiting(words, self.lengths[text], done))
        return await done

    def _work(self) -> None:
        while True:
            batch = [self.waiting.get()]
            while len(batch) < BATCH and not self.waiting.empty():
                try:
                    batch.append(self.waiting.get_nowait())
                except queue.Empty:
                    break
            length = round(sum(one.length for one in batch) / len(batch))
            found = self.translator.translate_batch(
                [one.tokens for one in batch],
                beam_size=self.beam,
                min_decoding_length=length,
                max_decoding_length=length,
            )
            texts = [self._text(one.hypotheses[0]) for one in found]
            self.loop.call_soon_threadsafe(_answer, batch, texts)

    def _text(self, words: list[str]) -> str:
        return self.tokenizer.decode([int(one[1:]) + _FIRST for one in words if one.startswith("w")])


def _answer(batch: list[Waiting], texts: list[str]) -> None:
    for one, text in zip(batch, texts, strict=True):
        if not one.done.done():
            one.done.set_result(text)
