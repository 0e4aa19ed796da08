"""The page /docs: Swagger UI from the package fastapi-offline, without any outside resource."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from kserve.errors import NotFound

router = APIRouter(include_in_schema=False)
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
# The page starts itself by an inline script and draws with inline styles and data: pictures.
_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """The description of all requests, to read and to try."""
    root = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title=f"{request.app.title}: requests",
        swagger_js_url=f"{root}/docs/swagger-ui-bundle.js",
        swagger_css_url=f"{root}/docs/swagger-ui.css",
        swagger_favicon_url=f"{root}/docs/favicon.png",
    )
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{name}")
async def docs_file(name: str) -> Response:
    """A file of the page."""
    spec = importlib.util.find_spec("fastapi_offline")
    if name not in _FILES or spec is None or not spec.submodule_search_locations:
        raise NotFound("there is no such file")
    path = Path(spec.submodule_search_locations[0], "static", name)
    return FileResponse(path, media_type=_FILES[name], headers={"Cache-Control": "public, max-age=86400"})
