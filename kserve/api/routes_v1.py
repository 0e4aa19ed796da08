"""This server's own API, version 1: everything that the engine tells, typed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from kserve.api import schemas_v1 as schemas
from kserve.api import v1
from kserve.api.access import Caller
from kserve.api.body import json_object, read_body, read_form
from kserve.api.documents import translate_file
from kserve.api.http import AppState, State, attachment, json_answer, timing_headers, unless_gone
from kserve.api.libre import language
from kserve.api.openapi import Responses, errors, gives, gives_file, ref, takes
from kserve.api.race import RUNS
from kserve.api.schemas_libre import ErrorAnswer
from kserve.api.service import AUTO, Ask
from kserve.api.stream import greedy_if_open, stream
from kserve.errors import InvalidBody, InvalidKey, KeyNeeded, MissingParameter, NotFound
from kserve.text.files import MEDIA_TYPES, file_kind

router = APIRouter(prefix="/v1", tags=["Version 1"])
_ERROR = ErrorAnswer
_KEY_FIELDS = {"api_key", "auth_key", "key"}
_EVENTS: Responses = {
    200: {
        "description": "Events `token` (text, sentence, piece), `sentence` (text, sentence, source, "
        "translation), and at last `done` (as the answer of /v1/translate) or `error` (error, code)",
        "content": {"text/event-stream": {}},
    },
    **errors(_ERROR),
}
_TRANSLATE = takes(ref(schemas.TranslateRequest), "application/json")
_DETECT = takes(ref(schemas.DetectRequest), "application/json")
_COMPARE = takes(ref(schemas.CompareRequest), "application/json")
_FILE = takes(schemas.FILE_BODY, "multipart/form-data")


@router.post(
    "/translate",
    response_model=None,
    responses=gives(ref(schemas.TranslateResponse), _ERROR),
    openapi_extra=_TRANSLATE,
)
async def translate(request: Request, state: AppState) -> Response:
    """Translate texts; with scores, n-best, sentences, alignment and timings."""
    started = time.perf_counter()
    ask = await _ask(request, state)
    answered = await unless_gone(request, state.service.translate(ask))
    body = partial(v1.answer, answered, ask, 1e3 * (time.perf_counter() - started))
    return await json_answer(body, len(ask.texts), timing_headers(answered.timings))


@router.post(
    "/translate/stream",
    responses=_EVENTS,
    response_class=StreamingResponse,
    openapi_extra=_TRANSLATE,
)
async def translate_stream(request: Request, state: AppState) -> StreamingResponse:
    """The same as server-sent events. Search is greedy unless `beam_size` is given; beams send no tokens."""
    ask = await _ask(request, state)
    return await unless_gone(request, stream(state.service, greedy_if_open(ask)))


@router.post(
    "/detect",
    response_model=None,
    responses=gives(ref(schemas.DetectResponse), _ERROR),
    openapi_extra=_DETECT,
)
async def detect(request: Request, state: AppState) -> dict[str, Any]:
    """The loaded languages of each text by their probability."""
    fields, caller = await _json_and_caller(request, state)
    asked = v1.checked(schemas.DetectRequest, fields)
    texts = [asked.text] if isinstance(asked.text, str) else asked.text
    state.service.check_sizes(texts, caller)
    state.service.count(caller, len(texts), sum(map(len, texts)))
    found = await state.service.detect(texts)
    return {
        "detections": [
            [{"language": one.language, "confidence": round(one.confidence, 4)} for one in guesses]
            for guesses in found
        ]
    }


@router.get("/models", response_model=None, responses=gives(ref(schemas.ModelList), _ERROR))
async def models(state: AppState) -> dict[str, Any]:
    """The loaded models: languages, sizes, quality, kernels."""
    return v1.models(state.service)


@router.post("/files", responses=gives_file(_ERROR), response_class=Response, openapi_extra=_FILE)
async def files(request: Request, state: AppState) -> Response:
    """Translate a file (plain text, SRT, HTML, Markdown, DOCX, ODT); the answer is the file."""
    state.service.require_room()
    caller = state.caller(request)
    form = await read_form(request, state.file_limits)
    if "file" not in form.files:
        raise MissingParameter("Invalid request: missing file parameter")
    codes = state.service.bundles.languages
    source = language(form.fields.get("source") or AUTO, "source", [*codes, AUTO])
    if not form.fields.get("target"):
        raise MissingParameter("Invalid request: missing target parameter")
    target = language(form.fields["target"], "target", codes)
    work = translate_file(state.service, form.files["file"], (source, target), caller)
    done = await unless_gone(request, work)
    answer = attachment(done.name, done.content, MEDIA_TYPES[file_kind(done.name)])
    answer.headers.update(timing_headers(done.timings))
    return answer


@router.post(
    "/compare",
    response_model=None,
    responses=gives(ref(schemas.CompareResponse), _ERROR),
    openapi_extra=_COMPARE,
)
async def compare(request: Request, state: AppState) -> dict[str, Any]:
    """A model and its dense twin, which is made in memory when it is first needed, on one sentence."""
    if state.races is None:
        raise NotFound("comparing is off on this server; it is switched on by KSERVE_COMPARE=true")
    fields, caller = await _json_and_caller(request, state)
    loaded, text = await v1.entrant(v1.checked(schemas.CompareRequest, fields), state.service)
    state.service.count(caller, RUNS, len(text))
    with state.service.admission.place():
        return await state.races.run(loaded, text)


@router.post("/admin/reload", response_model=None, responses=gives(ref(schemas.Reloaded), _ERROR))
async def reload(request: Request, state: AppState) -> dict[str, Any]:
    """Read keys and models again, without losing a request; needs a key that is marked `admin`."""
    if not state.caller(request).admin:
        raise InvalidKey("this needs a key that is marked `admin` in the file of keys")
    state.access.read()
    return {"reloaded": await state.service.bundles.reload()}


async def _ask(request: Request, state: State) -> Ask:
    state.service.require_room()
    fields, caller = await _json_and_caller(request, state)
    asked = v1.checked(schemas.TranslateRequest, fields)
    ask = v1.ask_of(asked, state.service, caller)
    state.service.count(caller, len(ask.texts), sum(map(len, ask.texts)))
    return ask


async def _json_and_caller(request: Request, state: State) -> tuple[dict[str, Any], Caller]:
    """The fields of the body, and whose they are; keys are read from the head, where no log keeps them."""
    state.service.require_ready()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise InvalidBody("Content-Type must be application/json")
    fields = json_object(await read_body(request, state.body_limits))
    try:
        return fields, state.caller(request)
    except KeyNeeded:
        if _KEY_FIELDS & {*fields, *request.query_params}:
            raise KeyNeeded("the key is in the wrong place; send it as Authorization: Bearer KEY") from None
        raise
