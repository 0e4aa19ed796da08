"""The pages / and /compare, and their files: plain HTML, CSS and modules, without any outside resource."""

from __future__ import annotations

import functools
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from kserve.api.http import AppState
from kserve.api.race import MAX_CHARACTERS

FOLDER = Path(__file__).parent / "web"
router = APIRouter(include_in_schema=False)
# Nothing inline, nothing from elsewhere.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}
_READS = ["GET", "HEAD"]


class WebFiles(StaticFiles):
    """Files of the pages; a browser asks each time whether they have changed, which takes a few bytes."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        answer = await super().get_response(path, scope)
        if not isinstance(answer, NotModifiedResponse):
            answer.headers["Cache-Control"] = "no-cache"
        return answer


@router.api_route("/", methods=_READS)
async def translate(request: Request, state: AppState) -> HTMLResponse:
    """The page that translates what is typed."""
    return _page("index.html", request, state.service.settings.docs, state.races is not None)


@router.api_route("/compare", methods=_READS)
async def compare(request: Request, state: AppState) -> HTMLResponse:
    """The page on which a model and its dense twin race."""
    return _page("compare.html", request, state.service.settings.docs, state.races is not None)


def _page(name: str, request: Request, docs: bool, races: bool) -> HTMLResponse:
    offers = " ".join(word for word, is_there in (("docs", docs), ("compare", races)) if is_there)
    # The prefix is letters, digits and slashes (see the settings), so nothing in it needs escaping.
    root = request.scope.get("root_path", "")
    filled = _template(name).replace("{root}", root).replace("{offers}", offers)
    return HTMLResponse(filled.replace("{compare_characters}", str(MAX_CHARACTERS)), headers=_HEADERS)


@functools.cache
def _template(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
