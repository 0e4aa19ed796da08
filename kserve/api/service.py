"""What a /translate request asks for, checked in a fixed order, and the answer to it. No FastAPI."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kserve.config import Settings
from kserve.errors import InvalidParameter, MissingParameter, TextTooLong, TooManyTexts, UnsupportedLanguage
from kserve.languages import language_name
from kserve.results import Translation
from kserve.translator import Translator

AUTO = "auto"

# With source "auto" the loaded model's only source language is taken without looking at the text.
_NOT_DETECTED = 0.0


@dataclass(frozen=True)
class Query:
    """A checked request."""

    texts: list[str]
    is_list: bool
    detect: bool  # the source language was left open
    alternatives: int


def parse_query(fields: Mapping[str, Any], settings: Settings, pair: tuple[str, str]) -> Query:
    """Fields as a query; the first thing that is wrong is the one that is told."""
    for name in ("q", "source", "target"):
        if fields.get(name) is None or fields[name] == []:
            raise MissingParameter(f"Invalid request: missing {name} parameter")
    texts = _texts(fields["q"])
    alternatives = _alternatives(fields.get("alternatives"), settings.max_alternatives)
    _check_sizes(texts, settings)
    source = _language(fields["source"], "source", (*pair, AUTO))
    target = _language(fields["target"], "target", pair)
    if fields.get("format") not in (None, "", "text"):
        raise InvalidParameter(f"{_shown(fields['format'])} format is not supported; use text")
    if target != pair[1] or source not in (pair[0], AUTO):
        known = pair[0] if source == AUTO else source
        raise UnsupportedLanguage(
            f"{language_name(target)} ({target}) is not available as a target language from "
            f"{language_name(known)} ({known})"
        )
    return Query(texts, isinstance(fields["q"], list), source == AUTO, alternatives)


def translate(translator: Translator, query: Query) -> dict[str, Any]:
    """The answer's body; blocks while the engine runs."""
    found = translator.translate(query.texts, n_best=query.alternatives + 1)
    answer: dict[str, Any] = {"translatedText": _unlisted([one.text for one in found], query)}
    if query.detect:
        detected = {"confidence": _NOT_DETECTED, "language": translator.languages[0]}
        answer["detectedLanguage"] = _unlisted([detected] * len(found), query)
    if query.alternatives:
        answer["alternatives"] = _unlisted([_others(one, query.alternatives) for one in found], query)
    return answer


def languages(pair: tuple[str, str]) -> list[dict[str, Any]]:
    """Every language of the model, with what it can be translated into."""
    source, target = pair
    return [
        {"code": source, "name": language_name(source), "targets": [target]},
        {"code": target, "name": language_name(target), "targets": []},
    ]


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            where = f"q[{index}]" if isinstance(value, list) else "q"
            raise InvalidParameter(
                f"Invalid request: {where} is {type(text).__name__}; expected a string or an array of strings"
            )
    return texts


def _alternatives(value: Any, limit: int) -> int:
    if value is None or value == "":
        return 0
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidParameter("Invalid request: alternatives parameter is not a number")
    if number > limit:
        raise InvalidParameter(f"Invalid request: alternatives parameter must be <= {limit}")
    return max(number, 0)


def _check_sizes(texts: list[str], settings: Settings) -> None:
    if len(texts) > settings.max_texts:
        raise TooManyTexts(
            f"Invalid request: request ({len(texts)}) exceeds text limit ({settings.max_texts})"
        )
    for text in texts:
        if len(text) > settings.max_characters:
            raise TextTooLong(
                f"Invalid request: request ({len(text)}) exceeds text limit ({settings.max_characters}) in "
                "characters"
            )
    total = sum(len(text) for text in texts)
    if total > settings.max_request_characters:
        raise TextTooLong(
            f"Invalid request: all texts together ({total}) exceed the limit of "
            f"{settings.max_request_characters} "
            "characters"
        )


def _language(value: Any, name: str, known: tuple[str, ...]) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(f"Invalid request: {name} is {type(value).__name__}; expected a language code")
    code = value.strip().lower()
    if code not in known:
        raise UnsupportedLanguage(f"{_shown(value)} is not supported")
    return code


def _shown(value: Any) -> str:
    """A caller's value as it may stand in a message: short."""
    text = value if isinstance(value, str) else str(type(value).__name__)
    return text if len(text) <= 40 else text[:40] + "…"


def _others(translation: Translation, wanted: int) -> list[str]:
    """The other hypotheses, each text once."""
    texts = dict.fromkeys(one.text for one in translation.hypotheses)
    texts.pop(translation.text)
    return list(texts)[:wanted]


def _unlisted(values: list[Any], query: Query) -> Any:
    return values if query.is_list else values[0]
