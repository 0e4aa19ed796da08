"""Handlers that are called before the framework looks for a route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kserve.api import routes_deepl, routes_health, routes_libre, routes_v1
from kserve.api.direct import Direct
from kserve.errors import KserveError, NotFound

router = APIRouter(prefix="/a")


@router.get("/plain")
async def plain(state: str) -> dict[str, str]:
    return {"state": state}


@router.post("/plain")
async def posted(request: Request, state: str) -> Response:
    raise NotFound(f"{request.method} by {state}")


@router.get("/{name}")
async def named(name: str) -> dict[str, str]:
    raise AssertionError(name)


async def refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


async def framework(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({"by": "the framework"})(scope, receive, send)


async def nothing() -> Any:
    raise AssertionError("these handlers read no body")


def answered(direct: Direct, method: str, path: str, **scope: Any) -> tuple[int, bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"type": "http", "method": method, "path": path, "headers": [], **scope}
    asyncio.run(direct(given, nothing, send))
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def direct() -> Direct:
    return Direct(framework, [router], "ours", {KserveError: refused})


def test_a_handler_of_request_and_state_is_called(direct: Direct) -> None:
    assert answered(direct, "GET", "/a/plain") == (200, b'{"state":"ours"}')
    assert answered(direct, "GET", "/p/a/plain", root_path="/p") == (200, b'{"state":"ours"}')


def test_its_error_is_answered(direct: Direct) -> None:
    assert answered(direct, "POST", "/a/plain") == (404, b'{"error":"POST by ours"}')


@pytest.mark.parametrize(("method", "path"), [("PUT", "/a/plain"), ("GET", "/a/b"), ("GET", "/plain")])
def test_all_else_goes_on_to_the_framework(direct: Direct, method: str, path: str) -> None:
    assert answered(direct, method, path) == (200, b'{"by":"the framework"}')


def test_what_is_asked_for_most_is_called_directly() -> None:
    routers = [routes.router for routes in (routes_libre, routes_v1, routes_deepl, routes_health)]
    direct = Direct(framework, routers, None, {})
    wanted = {("POST", f"{api}/translate") for api in ("", "/v1", "/v2")}
    assert wanted <= direct._routes.keys()
