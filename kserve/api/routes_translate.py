"""POST /translate and GET /languages."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request

from kserve.api import schemas, service
from kserve.api.body import read_fields
from kserve.api.state import AppState

router = APIRouter()


@router.post(
    "/translate",
    response_model=schemas.TranslateAnswer,
    responses=schemas.ERRORS,
    openapi_extra=schemas.TRANSLATE_BODY,
)
async def translate(request: Request, state: AppState) -> JSONResponse:
    """Translate a text, or an array of texts in the same order."""
    state.require_ready()
    fields = await read_fields(request, state.settings.max_body_bytes)
    query = service.parse_query(fields, state.settings, state.translator.languages)
    done = await state.worker.run(partial(service.translate, state.translator, query))
    timing = f"queue;dur={done.queue_ms:.2f}, translate;dur={done.work_ms:.2f}"
    return JSONResponse(done.result, headers={"Server-Timing": timing})


@router.get("/languages", response_model=list[schemas.Language])
async def languages(state: AppState) -> list[dict[str, Any]]:
    """The languages of the loaded model."""
    return service.languages(state.translator.languages)
