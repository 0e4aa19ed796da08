"""Errors as answers: one JSON shape for all, and never the inside of a failure."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request

from kserve.errors import INTERNAL, KserveError, answer_for
from kserve.tokenizer import clean

_RETRY_SECONDS = 1
_RETRY = {429, 503}


def error_answer(status: int, code: str, message: str) -> JSONResponse:
    """The body of every error; a caller's lone surrogates are replaced, they cannot be written."""
    headers = {"Retry-After": str(_RETRY_SECONDS)} if status in _RETRY else None
    return JSONResponse({"error": clean(message), "code": code}, status, headers)


def install(app: FastAPI) -> None:
    """Answer our errors, the framework's (404, 405) and unexpected ones."""
    app.add_exception_handler(KserveError, _ours)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _unexpected)


async def _ours(_: Request, error: Exception) -> JSONResponse:
    answer = answer_for(error)
    # Above 499 the fault is here: paths and sizes of the inside stay in the log.
    shown = str(error) if answer.status in _RETRY or answer.status < 500 else "internal error"
    return error_answer(answer.status, answer.code, shown)


async def _framework(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    message = f"{error.detail}: {request.method} {request.url.path}; see /docs"
    answer = error_answer(error.status_code, codes.get(error.status_code, "http"), message)
    answer.headers.update(error.headers or {})
    return answer


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    return error_answer(INTERNAL.status, INTERNAL.code, "internal error")
