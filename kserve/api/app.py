"""The FastAPI application around the loaded models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware

from kserve import __version__
from kserve.api import (
    answers,
    docs,
    routes_deepl,
    routes_health,
    routes_libre,
    routes_v1,
    schemas_deepl,
    schemas_health,
    schemas_libre,
    schemas_v1,
    web,
)
from kserve.api.access import Access
from kserve.api.bundles import Bundles
from kserve.api.direct import Direct, ErrorHandlers
from kserve.api.frame import Frame
from kserve.api.http import State
from kserve.api.jobs import Jobs
from kserve.api.logs import say
from kserve.api.memory import give_back_freed
from kserve.api.openapi import described
from kserve.api.race import Races
from kserve.api.service import Service
from kserve.api.stored import FileStore
from kserve.config import ServerSettings
from kserve.errors import KserveError
from kserve.translator import Translator

_EXPOSED = [
    "Server-Timing",
    "X-Request-ID",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-Ignored-Options",
    "Content-Disposition",
]
_CORS_SECONDS = 86_400
SHAPES = (*schemas_libre.SHAPES, *schemas_v1.SHAPES, *schemas_deepl.SHAPES, *schemas_health.SHAPES)


def create_app(settings: ServerSettings, translators: Sequence[Translator]) -> FastAPI:
    """An app that serves these models; it warms up at start-up and answers /ready with 503 until then."""
    app = FastAPI(
        title="kserve",
        version=__version__,
        summary="Machine translation on CPUs with K-matrix models.",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        # Its spans and logs would hold what was asked, and it looks for exporters at every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    service = Service(settings, Bundles(settings, translators))
    access = Access(settings.keys, settings.require_key)
    app.state.kserve = State(
        service,
        access,
        FileStore(settings.max_stored_bytes, settings.file_seconds),
        Jobs(),
        Races(service.metrics) if settings.compare else None,
    )
    routers = [routes.router for routes in (routes_libre, routes_v1, routes_deepl, routes_health)]
    for router in routers:
        app.include_router(router)
    if settings.web:
        app.include_router(web.router)
        app.mount("/web", web.WebFiles(directory=web.FOLDER))
    if settings.docs:
        app.include_router(docs.router)
        app.openapi = lambda: described(app, SHAPES)  # type: ignore[method-assign]
    _add_layers(app, settings, routers, answers.install(app, service.metrics))
    return app


def _add_layers(
    app: FastAPI, settings: ServerSettings, routers: Sequence[APIRouter], expected_errors: ErrorHandlers
) -> None:
    """What a request goes through before FastAPI; the layer that is added last is the outermost."""
    state: State = app.state.kserve
    app.add_middleware(Direct, routers=routers, state=state, handlers=expected_errors)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=_EXPOSED,
            max_age=_CORS_SECONDS,
        )
    app.add_middleware(Frame, metrics=state.service.metrics, prefix=settings.prefix)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: State = app.state.kserve
    tasks = [asyncio.create_task(one) for one in (_warm(state), give_back_freed())]
    yield
    for task in tasks:
        task.cancel()
    state.service.ready = False
    await state.jobs.close(state.service.settings.stop_seconds)
    await state.service.bundles.close()


async def _warm(state: State) -> None:
    try:
        await state.service.bundles.warm()
    except KserveError as error:
        say("the models cannot be used; /ready stays 503", logging.ERROR, error=str(error))
        return
    state.service.ready = True
