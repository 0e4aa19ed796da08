"""What a request to the LibreTranslate-compatible API asks for, checked in its order; and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kserve.api.access import Caller
from kserve.api.bundles import Bundles
from kserve.api.service import AUTO, Answered, Ask, Service, TextAnswer
from kserve.errors import InvalidParameter, MissingParameter, UnsupportedLanguage
from kserve.languages import language_name
from kserve.text.detect import Guess

FORMATS = ("text", "html")


def parse(fields: Mapping[str, Any], service: Service, caller: Caller) -> Ask:
    """Fields as a request; the first thing that is wrong is the one that is told."""
    for name in ("q", "source", "target"):
        # An empty text is a text: it comes back empty.
        if fields.get(name) in (None, []) or (name != "q" and fields[name] == ""):
            raise MissingParameter(f"Invalid request: missing {name} parameter")
    texts = texts_of(fields["q"])
    alternatives = _alternatives(fields.get("alternatives"), service.settings.max_alternatives)
    service.check_sizes(texts, caller)
    languages = service.bundles.languages
    source = language(fields["source"], "source", [*languages, AUTO])
    target = language(fields["target"], "target", languages)
    form = fields.get("format") or "text"
    if form not in FORMATS:
        raise InvalidParameter(f"{shown(form)} format is not supported; use {' or '.join(FORMATS)}")
    if source != AUTO:
        service.bundles.choose(source, target)
    if alternatives and form == "text":
        return Ask(texts, source, target, form, decoding={"n_best": alternatives + 1})
    return Ask(texts, source, target, form)


def answer(fields: Mapping[str, Any], answered: Answered) -> dict[str, Any]:
    """The answer's body: arrays where `q` was one."""
    is_list = isinstance(fields["q"], list)

    def unlisted(values: list[Any]) -> Any:
        return values if is_list else values[0]

    found = answered.answers
    body: dict[str, Any] = {"translatedText": unlisted([one.texts[0] for one in found])}
    if any(one.guess for one in found):
        body["detectedLanguage"] = unlisted([guessed(one.guess) for one in found if one.guess])
    if wanted := _alternatives(fields.get("alternatives"), 1 << 30):
        body["alternatives"] = unlisted([_others(one, wanted) for one in found])
    return body


def guessed(guess: Guess) -> dict[str, Any]:
    """A guess as this API tells it: per cent."""
    return {"confidence": round(100 * guess.confidence, 1), "language": guess.language}


def languages(bundles: Bundles) -> list[dict[str, Any]]:
    """Every language, with what it can be translated into."""
    return [
        {"code": code, "name": language_name(code), "targets": bundles.targets(code)}
        for code in bundles.languages
    ]


def frontend_settings(service: Service, uses_keys: bool, required: bool) -> dict[str, Any]:
    """What that API's web page asks for first."""
    from kserve.text.files import MEDIA_TYPES

    codes = service.bundles.languages
    target = next((one for one in service.bundles.targets(codes[0]) if one != codes[0]), codes[0])
    return {
        "apiKeys": uses_keys,
        "charLimit": service.settings.max_characters,
        "filesTranslation": True,
        "frontendTimeout": 500,
        "keyRequired": required,
        "language": {
            "source": {"code": AUTO, "name": "Auto Detect"},
            "target": {"code": target, "name": language_name(target)},
        },
        "suggestions": False,
        "supportedFilesFormat": [f".{ending}" for ending in MEDIA_TYPES],
    }


def texts_of(value: Any) -> list[str]:
    """`q` as a list of texts."""
    texts = value if isinstance(value, list) else [value]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            where = f"q[{index}]" if isinstance(value, list) else "q"
            raise InvalidParameter(
                f"Invalid request: {where} is {type(text).__name__}; expected a string or an array of strings"
            )
    return texts


def language(value: Any, name: str, known: Sequence[str]) -> str:
    """A language code that is known, in lower case and without a region."""
    if not isinstance(value, str):
        raise InvalidParameter(f"Invalid request: {name} is {type(value).__name__}; expected a language code")
    code = value.strip().lower()
    for one in (code, code.partition("-")[0]):
        if one in known:
            return one
    raise UnsupportedLanguage(f"{shown(value)} is not supported")


def shown(value: Any) -> str:
    """A caller's value as it may stand in a message: short."""
    text = value if isinstance(value, str) else str(type(value).__name__)
    return text if len(text) <= 40 else text[:40] + "…"


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


def _others(one: TextAnswer, wanted: int) -> list[str]:
    """The other translations, each text once."""
    texts = dict.fromkeys(one.texts)
    texts.pop(one.texts[0])
    return list(texts)[:wanted]
