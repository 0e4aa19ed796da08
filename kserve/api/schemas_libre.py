"""The shapes of the LibreTranslate-compatible API for /docs; requests are parsed in libre.py."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from kserve.api.openapi import takes


class DetectedLanguage(BaseModel):
    """A language and its probability in per cent; 0 where nothing was to be seen."""

    confidence: float = Field(examples=[98.6])
    language: str = Field(examples=["de"])


class TranslateAnswer(BaseModel):
    """Arrays where `q` was an array."""

    translatedText: str | list[str] = Field(examples=["Good morning!"])
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = Field(None, description="for auto")
    alternatives: list[str] | list[list[str]] | None = Field(None, description="when asked for")


class Language(BaseModel):
    """A language, and what it can be translated into."""

    code: str = Field(examples=["de"])
    name: str = Field(examples=["German"])
    targets: list[str] = Field(examples=[["en", "de"]])


class CodeAndName(BaseModel):
    """A language."""

    code: str
    name: str


class SettingsLanguages(BaseModel):
    """What a page shows first."""

    source: CodeAndName
    target: CodeAndName


class FrontendSettings(BaseModel):
    """Limits and abilities."""

    apiKeys: bool
    charLimit: int = Field(examples=[20000])
    filesTranslation: bool
    frontendTimeout: int
    keyRequired: bool
    language: SettingsLanguages
    suggestions: bool
    supportedFilesFormat: list[str] = Field(examples=[[".docx", ".txt"]])


class FileAnswer(BaseModel):
    """Where the translated file is."""

    translatedFileUrl: str = Field(examples=["http://127.0.0.1:8000/download_file/k3…Q.letter.en.docx"])


class ErrorAnswer(BaseModel):
    """Every answer that is not 2xx: a sentence, and a code that does not change."""

    error: str = Field(examples=["zz is not supported"])
    code: str = Field(examples=["unsupported_language"])


_LANGUAGES: dict[str, Any] = {
    "source": {"type": "string", "description": "Language code, or auto.", "example": "de"},
    "target": {"type": "string", "description": "Language code.", "example": "en"},
    "api_key": {"type": "string", "description": "Where the server asks for keys; a header does as well."},
}
_TEXT: dict[str, Any] = {
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    "description": "Text, or (in JSON) an array of texts.",
}
_TRANSLATE: dict[str, Any] = {
    "type": "object",
    "required": ["q", "source", "target"],
    "properties": {
        "q": _TEXT,
        **_LANGUAGES,
        "format": {"type": "string", "enum": ["text", "html"], "default": "text"},
        "alternatives": {"type": "integer", "default": 0, "description": "Other translations wanted."},
    },
    "example": {"q": "Guten Morgen!", "source": "de", "target": "en"},
}
_DETECT: dict[str, Any] = {
    "type": "object",
    "required": ["q"],
    "properties": {"q": _TEXT, "api_key": _LANGUAGES["api_key"]},
    "example": {"q": "Guten Morgen!"},
}
_FILE: dict[str, Any] = {
    "type": "object",
    "required": ["file", "source", "target"],
    "properties": {"file": {"type": "string", "format": "binary"}, **_LANGUAGES},
}
_FORMS = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data")
_ANY_FORM = "JSON, a form, or the same fields in the query string of an empty POST."
TRANSLATE_BODY = takes(_TRANSLATE, *_FORMS, note=_ANY_FORM)
DETECT_BODY = takes(_DETECT, *_FORMS, note=_ANY_FORM)
FILE_BODY = takes(_FILE, "multipart/form-data", note="The file's name says what it is.")
SUGGEST_BODY = takes({"type": "object"}, *_FORMS, note="Ignored.")
SHAPES = (TranslateAnswer, DetectedLanguage, Language, FrontendSettings, FileAnswer, ErrorAnswer)
