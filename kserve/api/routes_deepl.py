"""The DeepL-compatible API, version 2: texts, usage, languages, documents."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.responses import Response

from kserve.api import deepl
from kserve.api import schemas_deepl as schemas
from kserve.api.body import Upload, read_form
from kserve.api.documents import translate_file
from kserve.api.http import AppState, State, attachment, json_answer, timing_headers, unless_gone
from kserve.api.openapi import gives, gives_file, ref
from kserve.errors import MissingParameter
from kserve.text.files import MEDIA_TYPES, file_kind

router = APIRouter(prefix="/v2", tags=["DeepL-compatible"])
_ERROR = schemas.DeeplError


@router.post(
    "/translate",
    response_model=None,
    responses=gives(ref(schemas.DeeplAnswer), _ERROR),
    openapi_extra=schemas.TRANSLATE_BODY,
)
async def translate(request: Request, state: AppState) -> Response:
    """Translate texts."""
    state.service.require_room()
    fields = await _fields(request, state)
    caller = state.caller(request, fields.get("auth_key"))
    ask = deepl.parse(fields, state.service, caller)
    state.service.count(caller, len(ask.texts), sum(map(len, ask.texts)))
    answered = await unless_gone(request, state.service.translate(ask))
    headers = {**timing_headers(answered.timings), **deepl.ignored(fields)}
    return await json_answer(partial(deepl.answer, answered), len(ask.texts), headers)


@router.get("/translate", include_in_schema=False)
async def translate_query(request: Request, state: AppState) -> Response:
    """The same with everything in the query string, as older clients do."""
    return await translate(request, state)


@router.get("/usage", response_model=None, responses=gives(ref(schemas.DeeplUsage), _ERROR))
async def usage(request: Request, state: AppState) -> dict[str, int]:
    """Characters translated with this key since the server started."""
    caller = state.caller(request, request.query_params.get("auth_key"))
    limit = deepl.NO_LIMIT if caller.quota is None else caller.quota
    return {"character_count": state.service.used.get(caller.name, 0), "character_limit": limit}


@router.get(
    "/languages",
    response_model=None,
    responses=gives({"type": "array", "items": ref(schemas.DeeplLanguage)}, _ERROR),
    openapi_extra=schemas.TYPE_QUERY,
)
async def languages(request: Request, state: AppState) -> list[dict[str, Any]]:
    """Languages to translate from, or into; the official client sends the type in the body of its GET."""
    fields = await _fields(request, state)
    state.caller(request, fields.get("auth_key"))
    return deepl.languages(state.service.bundles, str(fields.get("type") or "source"))


@router.post(
    "/document",
    response_model=None,
    responses=gives(ref(schemas.DeeplDocument), _ERROR),
    openapi_extra=schemas.DOCUMENT_BODY,
)
async def document(request: Request, state: AppState) -> JSONResponse:
    """Start to translate a document."""
    state.service.require_room()
    form = await read_form(request, state.file_limits)
    caller = state.caller(request, form.fields.get("auth_key"))
    upload = form.files.get("file")
    if upload is None:
        raise MissingParameter("Parameter 'file' not specified.")
    name = str(form.fields.get("filename") or upload.name)
    file_kind(name)
    pair = deepl.languages_of(form.fields, state.service.bundles)
    work = translate_file(state.service, Upload(name, upload.content), pair, caller)
    job = state.jobs.start(work, caller.name)
    told = {"document_id": job.id, "document_key": job.key}
    return JSONResponse(told, headers=deepl.ignored(form.fields))


@router.post(
    "/document/{document_id}",
    response_model=None,
    responses=gives(ref(schemas.DeeplStatus), _ERROR),
    openapi_extra=schemas.KEY_BODY,
)
async def document_status(document_id: str, request: Request, state: AppState) -> dict[str, Any]:
    """How far a document is."""
    fields = await _fields(request, state)
    state.caller(request, fields.get("auth_key"))
    return state.jobs.find(document_id, fields.get("document_key")).status


@router.post(
    "/document/{document_id}/result",
    responses=gives_file(_ERROR),
    response_class=Response,
    openapi_extra=schemas.KEY_BODY,
)
async def document_result(document_id: str, request: Request, state: AppState) -> Response:
    """The translated document; it can be fetched once."""
    fields = await _fields(request, state)
    state.caller(request, fields.get("auth_key"))
    done = state.jobs.take(document_id, fields.get("document_key"))
    return attachment(done.name, done.content, MEDIA_TYPES[file_kind(done.name)])


async def _fields(request: Request, state: State) -> Mapping[str, Any]:
    """Fields in any form; in a form `text` may come several times."""
    form = await read_form(request, state.body_limits, repeated=("text",))
    return form.fields
