"""The shapes of requests and answers, for the page /docs; requests are parsed in body.py and service.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class DetectedLanguage(BaseModel):
    """The language taken for `source: auto`; confidence 0: only one is loaded, nothing was detected."""

    confidence: float
    language: str


class TranslateAnswer(BaseModel):
    """Arrays where `q` was an array."""

    translatedText: str | list[str]
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = Field(None, description="for auto")
    alternatives: list[str] | list[list[str]] | None = Field(None, description="when asked for")


class Language(BaseModel):
    """A language of the loaded model."""

    code: str
    name: str
    targets: list[str]


class Health(BaseModel):
    """The process is alive."""

    status: str
    version: str
    model: str
    isa: str
    threads: int


class Ready(BaseModel):
    """Whether requests are taken."""

    status: str


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx: a sentence, and a code that does not change."""

    error: str
    code: str


_FIELDS: dict[str, Any] = {
    "type": "object",
    "required": ["q", "source", "target"],
    "properties": {
        "q": {
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
            "description": "Text, or (in JSON) an array of texts.",
        },
        "source": {"type": "string", "description": "Language code, or auto.", "example": "de"},
        "target": {"type": "string", "description": "Language code.", "example": "en"},
        "format": {"type": "string", "enum": ["text"], "default": "text"},
        "alternatives": {"type": "integer", "default": 0, "description": "Other translations wanted."},
    },
    "example": {"q": "Guten Morgen!", "source": "de", "target": "en"},
}

TRANSLATE_BODY: dict[str, Any] = {
    "requestBody": {
        "description": "JSON, a form, or the same fields in the query string of an empty POST.",
        "content": {
            kind: {"schema": _FIELDS}
            for kind in ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
        },
    }
}

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "Something in the request is wrong"},
    413: {"model": ErrorAnswer, "description": "The body is too large"},
    429: {"model": ErrorAnswer, "description": "The queue is full; Retry-After says when to try again"},
    503: {"model": ErrorAnswer, "description": "The model is still being warmed up"},
}
