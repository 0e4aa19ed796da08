"""Handlers of request and state, called as they are.

The framework's way from a request to its handler (exit stacks, a search through all routes, arguments worked
out by name) takes longer than all that our own handler does before the engine has the sentence. Routes are
still declared with FastAPI, which describes them, and answers what is not called directly.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeAlias

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

ErrorHandlers: TypeAlias = Mapping[type[Exception], Callable[[Request, Any], Awaitable[Response]]]


class Direct:
    """The innermost layer of ours: goes on to the framework with what has no handler of that kind.

    Args:
        app: the framework's layers.
        routers: whose handlers are called directly.
        state: what handlers are given.
        handlers: answers to errors of a handler; others go up.
    """

    def __init__(
        self, app: ASGIApp, routers: Iterable[APIRouter], state: object, handlers: ErrorHandlers
    ) -> None:
        self._app, self._state, self._handlers = app, state, handlers
        self._expected = tuple(handlers)
        self._routes = {
            (method, route.path): (route, _parameters(route))
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute) and _parameters(route) <= {"request", "state"}
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        found = self._routes.get((scope.get("method", ""), path))
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["route"], wanted = found
        request = Request(scope, receive, send)
        given = {"request": request, "state": self._state}
        try:
            result = await scope["route"].endpoint(**{name: given[name] for name in wanted})
            answer = result if isinstance(result, Response) else JSONResponse(result)
        except self._expected as error:
            answer = await self._answer(request, error)
        await answer(scope, receive, send)

    async def _answer(self, request: Request, error: Exception) -> Response:
        handle = next(handle for kind, handle in self._handlers.items() if isinstance(error, kind))
        return await handle(request, error)


def _parameters(route: APIRoute) -> frozenset[str]:
    return frozenset(inspect.signature(route.endpoint).parameters)
