"""The OpenAPI document: routes name shapes by reference, and the shapes are worked out when somebody asks.

FastAPI would build a validator for every shape of every route when the server starts, which takes longer than
loading a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

Responses = dict[int | str, dict[str, Any]]

_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_STATUS = {
    400: "Something in the request is wrong",
    401: "A key is needed",
    403: "The key is unknown, or does not allow this",
    404: "There is no such thing here",
    405: "This path has another method",
    408: "The body did not arrive in time",
    413: "The body is too large",
    429: "Too much at once; Retry-After says when to try again",
    456: "The key's characters are used up",
    500: "A fault of the server",
    503: "Not now; Retry-After says when to try again",
}


def ref(shape: type[BaseModel]) -> dict[str, Any]:
    """A reference to a shape."""
    return {"$ref": f"#/components/schemas/{shape.__name__}"}


def gives(schema: Mapping[str, Any], error: type[BaseModel]) -> Responses:
    """Answers of a route: JSON of this schema, or an error."""
    return {200: _json("The answer", schema), **errors(error)}


def gives_file(error: type[BaseModel]) -> Responses:
    """Answers of a route: a file, or an error."""
    return {200: {"description": "The file", "content": _BINARY}, **errors(error)}


def errors(error: type[BaseModel]) -> Responses:
    """All errors, which have one shape."""
    return {status: _json(text, ref(error)) for status, text in _STATUS.items()}


def takes(schema: Mapping[str, Any], *kinds: str, note: str = "") -> dict[str, Any]:
    """A body of this schema in one of these kinds."""
    body: dict[str, Any] = {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}
    return {"requestBody": {**body, "description": note} if note else body}


def described(app: FastAPI, shapes: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    """The document of the app."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        _, found = models_json_schema(
            [(shape, "serialization") for shape in shapes], ref_template="#/components/schemas/{model}"
        )
        document.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
        app.openapi_schema = document
    return app.openapi_schema


def _json(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}
