"""The FastAPI application around one translator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from kserve import __version__
from kserve.api import answers, routes_health, routes_translate
from kserve.api.state import State
from kserve.api.worker import Worker
from kserve.config import Settings
from kserve.translator import Translator


def create_app(settings: Settings, translator: Translator) -> FastAPI:
    """An app that serves this translator; it warms up at start-up and answers /ready with 503 until then."""
    app = FastAPI(
        title="kserve",
        version=__version__,
        description="Machine translation on CPUs with K-matrix models.",
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.kserve = State(settings, translator, Worker(settings.threads, settings.queue_size))
    answers.install(app)
    app.include_router(routes_translate.router)
    app.include_router(routes_health.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.kserve
    warming = asyncio.create_task(state.warm())
    yield
    warming.cancel()
    state.worker.close()
