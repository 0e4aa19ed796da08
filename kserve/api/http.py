"""What the routes of all APIs do alike: the app's state, who asks, reply headers, clients that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kserve.api.access import Access, Caller, key_in_headers
from kserve.api.body import BodyLimits, Form, read_form
from kserve.api.driver import Timings
from kserve.api.jobs import Jobs
from kserve.api.protocol import CONNECTION, LimitedProtocol
from kserve.api.race import Races
from kserve.api.service import Service
from kserve.api.stored import FileStore
from kserve.errors import Cancelled, NotReady

Result = TypeVar("Result")
_FEW = 20  # texts


@dataclass
class State:
    """One for each app."""

    service: Service
    access: Access
    files: FileStore
    jobs: Jobs
    races: Races | None  # None: comparing is off

    @property
    def body_limits(self) -> BodyLimits:
        """Of a request without files."""
        settings = self.service.settings
        return BodyLimits(settings.max_body_bytes, settings.body_seconds)

    @property
    def file_limits(self) -> BodyLimits:
        """Of a request with a file; a form has a little around it."""
        settings = self.service.settings
        return BodyLimits(settings.max_file_bytes + 10_000, settings.body_seconds)

    def caller(self, request: Request, key: object = None) -> Caller:
        """Who asks: by the key of a field or of the head, else by address.

        Raises:
            AccessDenied: see `Access.caller`.
        """
        given = key if isinstance(key, str) and key else key_in_headers(request.headers)
        caller = self.access.caller(given, request.client.host if request.client else "")
        request.scope["kserve.caller"] = caller
        return caller


async def _state(request: Request) -> State:  # async: FastAPI runs other functions in a thread
    state: State = request.app.state.kserve
    return state


AppState = Annotated[State, Depends(_state)]


async def form_and_caller(request: Request, state: State) -> tuple[Form, Caller]:
    """The fields of a request to an API that takes keys in the body, and whose they are."""
    state.service.require_ready()
    form = await read_form(request, state.body_limits)
    return form, state.caller(request, form.fields.get("api_key"))


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; the work is cancelled when the client closes its connection.

    Raises:
        Cancelled: the client has gone.
        NotReady: the server stops, and cannot wait any longer.
    """
    connection: LimitedProtocol = request.scope[CONNECTION]
    task = asyncio.current_task()
    assert task is not None
    if connection.is_lost:
        work.close()
        raise Cancelled("the client has gone")
    try:
        with connection.calls_when_lost(task.cancel):
            return await work
    except asyncio.CancelledError:
        if connection.is_lost:
            raise Cancelled("the client has gone") from None
        state: State = request.app.state.kserve
        if not state.service.ready:  # what the server cancels when its time to stop is over
            raise NotReady("the server is stopping; send the request again") from None
        raise


async def json_answer(build: Callable[[], Any], texts: int, headers: Mapping[str, str]) -> Response:
    """An answer about so many texts; a large one is built in a thread, beside which other requests go on."""
    if texts <= _FEW:
        return JSONResponse(build(), headers=headers)
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, lambda: JSONResponse(build(), headers=headers))


def timing_headers(timings: Timings) -> Mapping[str, str]:
    """Milliseconds by phase, as browsers and load tests read them."""
    return {
        "Server-Timing": f"queue;dur={1e3 * timings.queue:.2f}, tokenize;dur={1e3 * timings.tokenize:.2f}, "
        f"decode;dur={1e3 * timings.decode:.2f}"
    }


def attachment(name: str, content: bytes, media_type: str) -> Response:
    """A file to be saved; the name is safe to stand in a header (`stored.safe_name`)."""
    ascii_name = name.encode("ascii", "replace").decode().replace("?", "_")
    disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name)}"
    return Response(content, media_type=media_type, headers={"Content-Disposition": disposition})
