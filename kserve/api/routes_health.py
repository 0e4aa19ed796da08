"""GET /health: the process is alive. GET /ready: it takes requests. GET /metrics: its counters."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from kserve import __version__
from kserve.api import schemas_health as schemas
from kserve.api.http import AppState
from kserve.api.metrics import CONTENT_TYPE
from kserve.api.openapi import errors, gives, ref
from kserve.api.schemas_libre import ErrorAnswer
from kserve.errors import NotFound

router = APIRouter(tags=["Server"])


@router.get("/health", response_model=None, responses=gives(ref(schemas.Health), ErrorAnswer))
async def health(state: AppState) -> dict[str, Any]:
    """Alive, and with which models and kernels."""
    loaded = list(state.service.bundles)
    return {
        "status": "ok",
        "version": __version__,
        "models": [one.translator.bundle.name for one in loaded],
        "isa": loaded[0].translator.isa,
        "threads": state.service.settings.threads,
    }


@router.get("/ready", response_model=None, responses=gives(ref(schemas.Ready), ErrorAnswer))
async def ready(state: AppState) -> dict[str, str]:
    """Whether requests are taken: 503 until the models are warm, and from when the server stops."""
    state.service.require_ready()
    return {"status": "ready"}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **errors(ErrorAnswer)},
)
async def metrics(state: AppState) -> Response:
    """Counters in Prometheus' form."""
    if not state.service.settings.metrics:
        raise NotFound("metrics are off")
    return Response(state.service.metrics.exposition(), media_type=CONTENT_TYPE)
