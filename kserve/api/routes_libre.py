"""The LibreTranslate-compatible API: /translate, /detect, /languages, /frontend/settings, files, /suggest."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from kserve.api import libre
from kserve.api import schemas_libre as schemas
from kserve.api.body import read_form
from kserve.api.documents import translate_file as translate_document
from kserve.api.http import (
    AppState,
    attachment,
    form_and_caller,
    json_answer,
    timing_headers,
    unless_gone,
)
from kserve.api.openapi import errors, gives, gives_file, ref
from kserve.api.service import AUTO
from kserve.errors import AccessDenied, MissingParameter
from kserve.text.files import MEDIA_TYPES, file_kind

router = APIRouter(tags=["LibreTranslate-compatible"])
_ERROR = schemas.ErrorAnswer


def _with(body: dict[str, Any]) -> dict[str, Any]:
    return {"openapi_extra": body, "response_model": None}


def _list(shape: type[BaseModel]) -> dict[str, Any]:
    return {"type": "array", "items": ref(shape)}


@router.post(
    "/translate", responses=gives(ref(schemas.TranslateAnswer), _ERROR), **_with(schemas.TRANSLATE_BODY)
)
async def translate(request: Request, state: AppState) -> Response:
    """Translate a text, or an array of texts in the same order."""
    state.service.require_room()
    form, caller = await form_and_caller(request, state)
    ask = libre.parse(form.fields, state.service, caller)
    state.service.count(caller, len(ask.texts), sum(map(len, ask.texts)))
    answered = await unless_gone(request, state.service.translate(ask))
    headers = timing_headers(answered.timings)
    return await json_answer(partial(libre.answer, form.fields, answered), len(ask.texts), headers)


@router.post(
    "/detect", responses=gives(_list(schemas.DetectedLanguage), _ERROR), **_with(schemas.DETECT_BODY)
)
async def detect(request: Request, state: AppState) -> list[dict[str, Any]]:
    """The loaded languages of a text by probability, best first; of an array, those of its first text."""
    form, caller = await form_and_caller(request, state)
    if form.fields.get("q") in (None, []):
        raise MissingParameter("Invalid request: missing q parameter")
    texts = libre.texts_of(form.fields["q"])
    state.service.check_sizes(texts, caller)
    state.service.count(caller, len(texts), sum(map(len, texts)))
    found = await state.service.detect(texts[:1])
    return [libre.guessed(guess) for guess in found[0]]


@router.get("/languages", responses=gives(_list(schemas.Language), _ERROR), response_model=None)
async def languages(state: AppState) -> list[dict[str, Any]]:
    """The languages of the loaded models."""
    return libre.languages(state.service.bundles)


@router.get("/frontend/settings", responses=gives(ref(schemas.FrontendSettings), _ERROR), response_model=None)
async def frontend_settings(state: AppState) -> dict[str, Any]:
    """Limits and abilities, as a page wants to know them."""
    return libre.frontend_settings(state.service, state.access.uses_keys, state.access.required)


@router.post("/translate_file", responses=gives(ref(schemas.FileAnswer), _ERROR), **_with(schemas.FILE_BODY))
async def translate_file(request: Request, state: AppState) -> JSONResponse:
    """Translate a file; the answer says where to fetch it."""
    state.service.require_room()
    form = await read_form(request, state.file_limits)
    caller = state.caller(request, form.fields.get("api_key"))
    if "file" not in form.files:
        raise MissingParameter("Invalid request: missing file parameter")
    for name in ("source", "target"):
        if not form.fields.get(name):
            raise MissingParameter(f"Invalid request: missing {name} parameter")
    codes = state.service.bundles.languages
    source = libre.language(form.fields["source"], "source", [*codes, AUTO])
    target = libre.language(form.fields["target"], "target", codes)
    done = await unless_gone(
        request, translate_document(state.service, form.files["file"], (source, target), caller)
    )
    token = state.files.put(done.name, done.content)
    url = str(request.url_for("download_file", name=quote(token)))
    return JSONResponse({"translatedFileUrl": url}, headers=timing_headers(done.timings))


@router.get("/download_file/{name}", responses=gives_file(_ERROR), response_class=Response)
async def download_file(name: str, state: AppState) -> Response:
    """A translated file; for a while it can be fetched again."""
    file = state.files.get(name)
    return attachment(file.name, file.content, MEDIA_TYPES[file_kind(file.name)])


@router.post("/suggest", responses=errors(_ERROR), **_with(schemas.SUGGEST_BODY))
async def suggest() -> JSONResponse:
    """Suggestions of better translations are not collected."""
    raise AccessDenied("Suggestions are disabled on this server.")
