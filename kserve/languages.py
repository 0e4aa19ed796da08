"""English names of the languages that models here may have, by code."""

from __future__ import annotations

NAMES = {
    "cs": "Czech",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "pt": "Portuguese",
    "ru": "Russian",
    "uk": "Ukrainian",
}


def language_name(code: str) -> str:
    """The name, or the code itself where no name is known."""
    return NAMES.get(code, code)
