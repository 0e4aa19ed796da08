"""Request bodies: bytes to named fields, whichever of the accepted forms they come in, within limits.

JSON only where Content-Type says so; any other body is read as a form (urlencoded or multipart), over the
query string.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import anyio
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request

from kserve.api.protocol import CONNECTION, LimitedProtocol
from kserve.errors import BodyTooLarge, BodyTooSlow, Cancelled, InvalidBody

_MAX_FIELDS = 1000


@dataclass(frozen=True)
class BodyLimits:
    """Bytes of a body, and the seconds in which they must arrive."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Upload:
    """A file of a form."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Form:
    """The fields of a form, and its files by field."""

    fields: dict[str, Any]
    files: dict[str, Upload] = field(default_factory=dict)


async def read_fields(request: Request, limits: BodyLimits) -> Mapping[str, Any]:
    """The request's fields, in any form."""
    return (await read_form(request, limits)).fields


async def read_form(request: Request, limits: BodyLimits, repeated: Sequence[str] = ()) -> Form:
    """The request's fields and files. The body is counted while it arrives and never held beyond its limit.

    Of a field that a form repeats the first counts; those named `repeated` become lists of all.
    """
    body = await read_body(request, limits)
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return Form(json_object(body))
    fields = _urlencoded(request.url.query, repeated)
    if kind == "multipart/form-data":
        form = await _multipart(request, body)
        return Form({**fields, **form.fields}, form.files)
    fields.update(_urlencoded(body.decode("utf-8", "replace"), repeated))
    return Form(fields)


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """All bytes of the body.

    Raises:
        BodyTooLarge: at once if its head says so, else as soon as it is.
        BodyTooSlow: it does not arrive in time.
        Cancelled: the client has gone.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.bytes:
        raise _too_large(limits)
    connection: LimitedProtocol = request.scope[CONNECTION]
    in_time = nullcontext() if connection.has_all_of(request.scope) else anyio.fail_after(limits.seconds)
    try:
        with in_time:
            return await _read(request, limits)
    except TimeoutError:
        raise BodyTooSlow(
            f"Invalid request: the body did not arrive within {limits.seconds:g} s; send it faster"
        ) from None
    except ClientDisconnect:
        raise Cancelled("the client has gone") from None


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object."""
    try:
        fields = _JSON.decode(body.decode(json.detect_encoding(body), "surrogatepass"))
    except RecursionError:
        raise InvalidBody("Invalid JSON format: nested too deeply") from None
    except InvalidBody:
        raise
    except ValueError as error:
        raise InvalidBody(f"Invalid JSON format: {error}") from None
    if not isinstance(fields, dict):
        raise InvalidBody("Invalid JSON format: expected an object with named fields")
    return fields


async def _read(request: Request, limits: BodyLimits) -> bytes:
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > limits.bytes:
            raise _too_large(limits)
    return bytes(body)


def _too_large(limits: BodyLimits) -> BodyTooLarge:
    return BodyTooLarge(f"Invalid request: the body exceeds the limit of {limits.bytes} bytes")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise InvalidBody(f"Invalid JSON format: the field {twice[:40]!r} is there more than once")
    return fields


def _no_constant(name: str) -> Any:
    raise InvalidBody(f"Invalid JSON format: {name} is no JSON number")


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _urlencoded(text: str, repeated: Sequence[str]) -> dict[str, Any]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS, errors="replace")
    except ValueError:
        raise InvalidBody(f"Invalid form: more than {_MAX_FIELDS} fields") from None
    fields: dict[str, Any] = dict(reversed(pairs))
    for name in repeated:
        if name in fields:
            fields[name] = [value for one, value in pairs if one == name]
    return fields


async def _multipart(request: Request, body: bytes) -> Form:
    """Fields and files of a multipart form; the first of repeated ones counts."""
    from python_multipart.exceptions import MultipartParseError
    from starlette.formparsers import MultiPartException, MultiPartParser

    class InMemory(MultiPartParser):
        spool_max_size = 0  # never to disk: the body is in memory anyway, and the disk may be read-only

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        parser = InMemory(
            request.headers, stream(), max_files=10, max_fields=_MAX_FIELDS, max_part_size=len(body) + 1
        )
        form = await parser.parse()
    except (MultiPartException, MultipartParseError, KeyError) as error:
        raise InvalidBody(
            f"Invalid form: {getattr(error, 'message', None) or 'no such parts in the body'}"
        ) from None
    result = Form({})
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            result.files.setdefault(name, Upload(value.filename or "", await value.read()))
        else:
            result.fields.setdefault(name, value)
    return result
