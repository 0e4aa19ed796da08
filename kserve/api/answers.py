"""Errors as answers: each API has its shape, and none ever shows the inside of a failure."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from kserve.api.direct import ErrorHandlers
from kserve.api.logs import say
from kserve.api.metrics import Metrics
from kserve.errors import INTERNAL, Answer, KserveError, RateLimited, Refused, answer_for
from kserve.tokenizer import clean

_RETRY = {429, 503}
_FRAMEWORK = {404: "not_found", 405: "method_not_allowed"}
# The LibreTranslate-compatible API asks for a key with 400, the DeepL-compatible one with 403.
_KEY_NEEDED = {"libre": 400, "deepl": 403, "v1": 401}


def install(app: FastAPI, metrics: Metrics) -> ErrorHandlers:
    """Answer our errors, the framework's (404, 405) and unexpected ones; gives handlers of the first two."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        answer = answer_for(error)
        if answer.status >= 400:
            metrics.rejects.labels(answer.label).inc()
        # Above 499 the fault is here: paths and sizes of the inside stay in the log.
        shown = str(error) if answer.status in _RETRY or answer.status < 500 else "internal error"
        if shown != str(error):
            say("failure", logging.ERROR, code=answer.code, error=str(error))
        retry = error.retry_after if isinstance(error, Refused) else 1
        told = error_answer(request, answer, shown, retry)
        if isinstance(error, RateLimited):
            told.headers.update(rate_headers(error.limit, 0, retry))
        return told

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        metrics.rejects.labels(INTERNAL.label).inc()
        logging.getLogger("kserve").error("unexpected failure", exc_info=error)
        return error_answer(request, INTERNAL, "internal error")

    expected: ErrorHandlers = {KserveError: ours, HTTPException: _framework}
    for kind, handler in {**expected, Exception: unexpected}.items():
        app.add_exception_handler(kind, handler)
    return expected


def rate_headers(limit: int, left: int, seconds: int) -> dict[str, str]:
    """How many texts a minute a caller has, how many are left, and when there are more."""
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(left),
        "X-RateLimit-Reset": str(seconds),
    }


def error_answer(request: Request, answer: Answer, message: str, retry: int = 1) -> JSONResponse:
    """An error in the shape of the API that was called; lone surrogates have no bytes and are replaced."""
    style = _style(request)
    status = _KEY_NEEDED[style] if answer.code == "key_needed" else answer.status
    headers = {"Retry-After": str(retry)} if status in _RETRY else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if answer.code in ("body_too_large", "body_too_slow"):
        headers["Connection"] = "close"  # what still comes is not read
    return JSONResponse(error_body(style, answer.code, clean(message)), status, headers)


def error_body(style: str, code: str, message: str) -> dict[str, Any]:
    """The JSON of an error."""
    if style == "deepl":
        return {"message": message, "detail": code}
    return {"error": message, "code": code}


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _FRAMEWORK.get(error.status_code, "http")
    # The path only: a query string may hold text.
    message = f"{error.detail}: {request.method} {request.url.path[:200]}; see /docs"
    answer = error_answer(request, Answer(code, error.status_code, "validation"), message)
    answer.headers.update(error.headers or {})
    return answer


def _style(request: Request) -> str:
    path = request.url.path[len(request.scope.get("root_path", "")) :]
    if path.startswith("/v2/"):
        return "deepl"
    return "v1" if path.startswith("/v1/") else "libre"
