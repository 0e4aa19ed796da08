"""What a request to the DeepL-compatible API (v2) asks for; and the answer to it.

Options that this server cannot follow (formality, glossaries, context and so on) are ignored, as that API's
own clients expect of unknown ones; a reply header names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kserve.api.access import Caller
from kserve.api.bundles import Bundles
from kserve.api.service import AUTO, Answered, Ask, Service
from kserve.errors import InvalidParameter, MissingParameter, UnsupportedLanguage
from kserve.languages import language_name
from kserve.text.xml import XmlRules

# That API wants a region for these as a target.
_REGIONS = {"en": ("EN-GB", "EN-US"), "pt": ("PT-BR", "PT-PT")}
_REGION_NAMES = {
    "EN-GB": "English (British)",
    "EN-US": "English (American)",
    "PT-BR": "Portuguese (Brazilian)",
    "PT-PT": "Portuguese (European)",
}
_KNOWN = frozenset(
    {
        "text", "source_lang", "target_lang", "split_sentences", "tag_handling", "outline_detection",
        "non_splitting_tags", "splitting_tags", "ignore_tags", "show_billed_characters", "auth_key",
        "preserve_formatting", "tag_handling_version", "filename",
    }
)  # fmt: skip
NO_LIMIT = 1_000_000_000_000  # what that API tells callers without a quota


def parse(fields: Mapping[str, Any], service: Service, caller: Caller) -> Ask:
    """Fields as a request."""
    texts = fields.get("text")
    if texts is None or texts == []:
        raise MissingParameter("Parameter 'text' not specified.")
    texts = texts if isinstance(texts, list) else [texts]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidParameter("Value for 'text' not supported: expected an array of strings.")
    service.check_sizes(texts, caller)
    source, target = languages_of(fields, service.bundles)
    split = str(fields.get("split_sentences", "1")).lower()
    if split not in ("0", "1", "nonewlines", "true", "false"):
        raise InvalidParameter("Value for 'split_sentences' not supported: expected 0, 1 or nonewlines.")
    handling = fields.get("tag_handling") or "text"
    if handling not in ("text", "html", "xml"):
        raise InvalidParameter("Value for 'tag_handling' not supported: expected html or xml.")
    return Ask(
        texts,
        source,
        target,
        str(handling),
        split=split not in ("0", "false"),
        lines=split != "nonewlines",
        xml=_rules(fields),
    )


def languages_of(fields: Mapping[str, Any], bundles: Bundles) -> tuple[str, str]:
    """Codes of source (or AUTO) and target."""
    given = fields.get("target_lang")
    if not given:
        raise MissingParameter("Parameter 'target_lang' not specified.")
    target = _language(given, "target_lang", bundles.languages)
    source = fields.get("source_lang")
    if not source:
        return AUTO, target
    code = _language(source, "source_lang", bundles.languages)
    bundles.choose(code, target)
    return code, target


def answer(answered: Answered) -> dict[str, Any]:
    """The answer's body."""
    return {
        "translations": [
            {
                "detected_source_language": one.source.upper(),
                "text": one.texts[0],
                "billed_characters": len(one.text),
            }
            for one in answered.answers
        ]
    }


def ignored(fields: Mapping[str, Any]) -> Mapping[str, str]:
    """A header that names the options that were not followed."""
    names = [
        name for name, value in fields.items() if name not in _KNOWN and value not in (None, "", [], False)
    ]
    safe = [name for name in names if name.isidentifier() and name.isascii()]
    return {"X-Ignored-Options": ", ".join(sorted(safe)[:20])} if safe else {}


def languages(bundles: Bundles, kind: str) -> list[dict[str, Any]]:
    """The languages that can be translated from (`source`) or into (`target`)."""
    if kind == "source":
        codes = [code for code in bundles.languages if any(one.pair[0] == code for one in bundles)]
        return [{"language": code.upper(), "name": language_name(code)} for code in codes]
    if kind != "target":
        raise InvalidParameter("Value for 'type' not supported: expected source or target.")
    codes = [code for code in bundles.languages if bundles.sources(code)]
    return [
        {
            "language": shown,
            "name": _REGION_NAMES.get(shown, language_name(code)),
            "supports_formality": False,
        }
        for code in codes
        for shown in _REGIONS.get(code, (code.upper(),))
    ]


def _language(value: Any, name: str, known: list[str]) -> str:
    code = value.strip().lower() if isinstance(value, str) else ""
    for one in (code, code.partition("-")[0]):
        if one in known:
            return one
    raise UnsupportedLanguage(f"Value for '{name}' not supported.")


def _rules(fields: Mapping[str, Any]) -> XmlRules:
    outline = str(fields.get("outline_detection", "1")).lower() not in ("0", "false")
    return XmlRules(
        splitting=_names(fields, "splitting_tags"),
        inline=_names(fields, "non_splitting_tags"),
        kept=_names(fields, "ignore_tags"),
        outline=outline,
    )


def _names(fields: Mapping[str, Any], name: str) -> frozenset[str]:
    """Names of tags: an array, or in forms a list with commas."""
    value = fields.get(name) or []
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise InvalidParameter(f"Value for '{name}' not supported: expected an array of strings.")
    return frozenset(one.strip() for one in names if one.strip())
