"""The shapes of the DeepL-compatible API for /docs; requests are parsed in deepl.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from kserve.api.openapi import takes


class DeeplTranslation(BaseModel):
    """One text's translation."""

    detected_source_language: str = Field(examples=["DE"])
    text: str = Field(examples=["Good morning!"])
    billed_characters: int = Field(examples=[13])


class DeeplAnswer(BaseModel):
    """As many as there were texts, in their order."""

    translations: list[DeeplTranslation]


class DeeplUsage(BaseModel):
    """Characters that the key has translated since the server started, and how many it may."""

    character_count: int = Field(examples=[30315])
    character_limit: int = Field(examples=[1000000])


class DeeplLanguage(BaseModel):
    """A language."""

    language: str = Field(examples=["DE"])
    name: str = Field(examples=["German"])
    supports_formality: bool | None = None


class DeeplDocument(BaseModel):
    """A document that was accepted."""

    document_id: str
    document_key: str


class DeeplStatus(BaseModel):
    """How far a document is: queued, translating, done or error."""

    document_id: str
    status: str = Field(examples=["done"])
    seconds_remaining: int | None = None
    billed_characters: int | None = None
    error_message: str | None = None


class DeeplError(BaseModel):
    """Every answer that is not 2xx."""

    message: str = Field(examples=["Value for 'target_lang' not supported."])
    detail: str | None = Field(None, description="a code that does not change")


_TEXTS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_TAGS: dict[str, Any] = {"type": "array", "items": {"type": "string"}}
_TRANSLATE: dict[str, Any] = {
    "type": "object",
    "required": ["text", "target_lang"],
    "properties": {
        "text": _TEXTS,
        "source_lang": {"type": "string", "description": "Found out when absent."},
        "target_lang": {"type": "string"},
        "split_sentences": {"type": "string", "enum": ["0", "1", "nonewlines"], "default": "1"},
        "tag_handling": {"type": "string", "enum": ["html", "xml"]},
        "outline_detection": {"type": "boolean", "default": True},
        "non_splitting_tags": _TAGS,
        "splitting_tags": _TAGS,
        "ignore_tags": _TAGS,
    },
    "example": {"text": ["Guten Morgen!"], "target_lang": "EN-GB"},
}
_DOCUMENT: dict[str, Any] = {
    "type": "object",
    "required": ["file", "target_lang"],
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "source_lang": {"type": "string"},
        "target_lang": {"type": "string"},
        "filename": {"type": "string"},
    },
}
_KEY: dict[str, Any] = {
    "type": "object",
    "required": ["document_key"],
    "properties": {"document_key": {"type": "string"}},
}


_FORMS = ("application/json", "application/x-www-form-urlencoded")
TRANSLATE_BODY = takes(_TRANSLATE, *_FORMS)
DOCUMENT_BODY = takes(_DOCUMENT, "multipart/form-data")
KEY_BODY = takes(_KEY, *_FORMS)
TYPE_QUERY: dict[str, Any] = {
    "parameters": [
        {"name": "type", "in": "query", "schema": {"type": "string", "enum": ["source", "target"]}}
    ]
}
SHAPES = (DeeplAnswer, DeeplUsage, DeeplLanguage, DeeplDocument, DeeplStatus, DeeplError)
