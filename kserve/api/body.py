"""Request bodies: bytes to named fields, whichever of the accepted forms they come in, within a limit.

JSON only where Content-Type says so; any other body is read as a form (urlencoded or multipart), over the
query string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request

from kserve.errors import BodyTooLarge, InvalidBody

_MAX_FIELDS = 100


async def read_fields(request: Request, limit: int) -> Mapping[str, Any]:
    """The request's fields. The body is counted while it arrives and never held beyond `limit` bytes."""
    body = await _read(request, limit)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return _json(body)
    fields = _urlencoded(request.url.query)
    if kind == "multipart/form-data":
        fields.update(_multipart(body, content_type))
    else:
        fields.update(_urlencoded(body.decode("utf-8", "replace")))
    return fields


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > limit:
            raise BodyTooLarge(f"Invalid request: the body exceeds the limit of {limit} bytes")
    return bytes(body)


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        fields = json.loads(body)
    except RecursionError:
        raise InvalidBody("Invalid JSON format: nested too deeply") from None
    except ValueError as error:
        raise InvalidBody(f"Invalid JSON format: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidBody("Invalid JSON format: expected an object with the fields q, source and target")
    return fields


def _urlencoded(text: str) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace")
    except ValueError:
        raise InvalidBody(f"Invalid form: more than {_MAX_FIELDS} fields") from None
    # The first of repeated fields counts.
    return dict(reversed(pairs))


def _multipart(body: bytes, content_type: str) -> dict[str, Any]:
    """Text fields of a multipart form; a part without a name is left out."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1", "replace")
    message = BytesParser(policy=HTTP).parsebytes(head + body)
    if not message.is_multipart():
        raise InvalidBody("Invalid form: Content-Type says multipart/form-data, the body has no such parts")
    fields: dict[str, Any] = {}
    for part in list(message.iter_parts())[:_MAX_FIELDS]:
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields.setdefault(name, content.decode("utf-8", "replace"))
    return fields
