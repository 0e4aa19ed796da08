"""GET /health: the process is alive. GET /ready: it takes requests."""

from __future__ import annotations

from fastapi import APIRouter

from kserve import __version__
from kserve.api import schemas
from kserve.api.state import AppState

router = APIRouter()


@router.get("/health")
async def health(state: AppState) -> schemas.Health:
    """Alive, and with which model and kernels."""
    return schemas.Health(
        status="ok",
        version=__version__,
        model=state.translator.bundle.name,
        isa=state.translator.isa,
        threads=state.translator.threads,
    )


@router.get("/ready", responses={503: schemas.ERRORS[503]})
async def ready(state: AppState) -> schemas.Ready:
    """Whether the model is loaded and warm; 503 until it is."""
    state.require_ready()
    return schemas.Ready(status="ready")
