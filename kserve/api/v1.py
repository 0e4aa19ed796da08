"""Requests and answers of this server's own API."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kserve.api import schemas_v1 as schemas
from kserve.api.access import Caller
from kserve.api.bundles import Loaded
from kserve.api.driver import Timings
from kserve.api.libre import language
from kserve.api.race import MAX_CHARACTERS
from kserve.api.service import AUTO, Answered, Ask, Service, TextAnswer
from kserve.errors import InvalidParameter, TextTooLong
from kserve.joining import score
from kserve.results import Decoding
from kserve.text.job import Told
from kserve.text.place import TOKEN
from kserve.text.sentence import Candidate
from kserve.tokenizer import Tokenizer

Shape = TypeVar("Shape", bound=BaseModel)
_MAX_N_BEST = 64
# A translation outside of these ratios of characters is worth a look.
_SHORT, _LONG, _FEW = 0.4, 2.5, 20


def checked(shape: type[Shape], fields: Mapping[str, Any]) -> Shape:
    """Fields as an object of this shape.

    Raises:
        InvalidParameter: naming the field that is wrong.
    """
    try:
        return shape.model_validate(fields)
    except ValidationError as error:
        # Of the ways in which a field could have been right, the one that came furthest says most.
        problem = max(error.errors(include_url=False, include_input=False), key=lambda one: len(one["loc"]))
        where = ".".join(
            str(part) for part in problem["loc"] if not re.search(r"[(\[]|^(str|list|int|float)", str(part))
        )
        raise InvalidParameter(f"{where or 'body'}: {problem['msg']}") from None


def ask_of(asked: schemas.TranslateRequest, service: Service, caller: Caller) -> Ask:
    """The request as the service takes it."""
    texts = [asked.text] if isinstance(asked.text, str) else asked.text
    service.check_sizes(texts, caller)
    languages = service.bundles.languages
    most = min(service.settings.max_alternatives + 1, _MAX_N_BEST)
    if asked.n_best > most:
        raise InvalidParameter(f"n_best: {asked.n_best} exceeds the limit of {most}")
    source = language(asked.source, "source", [*languages, AUTO])
    target = language(asked.target, "target", languages)
    if source != AUTO:
        service.bundles.choose(source, target)
    decoding: dict[str, Any] = asked.decoding.model_dump(exclude_none=True)
    return Ask(
        texts,
        source,
        target,
        asked.format,
        decoding=Decoding(**{**decoding, "n_best": asked.n_best}),  # type: ignore[typeddict-item]
        split=asked.split_sentences,
        protect=asked.protect,
        align=asked.alignment,
        deadline=asked.deadline,
    )


async def entrant(asked: schemas.CompareRequest, service: Service) -> tuple[Loaded, str]:
    """The model that a comparison is about, and the text."""
    if len(asked.text) > MAX_CHARACTERS:
        raise TextTooLong(
            f"text: {len(asked.text)} characters exceed the limit of {MAX_CHARACTERS} for comparisons"
        )
    languages = service.bundles.languages
    source = language(asked.source, "source", [*languages, AUTO])
    target = language(asked.target, "target", languages)
    if source == AUTO:
        source = await service.source_of(asked.text, target)
    loaded = service.bundles.choose(source, target)
    if loaded is None:
        raise InvalidParameter("source and target are the same language; there is no model to compare")
    return loaded, asked.text


def answer(answered: Answered, ask: Ask, total_ms: float) -> dict[str, Any]:
    """The answer's body."""
    return {
        "translations": [_text(one, ask) for one in answered.answers],
        "timing": timing(answered.timings, total_ms),
        "usage": usage(answered.timings, sum(map(len, ask.texts))),
    }


def timing(timings: Timings, total_ms: float) -> dict[str, float]:
    """Milliseconds by phase."""
    return {
        "queue_ms": round(1e3 * timings.queue, 3),
        "tokenize_ms": round(1e3 * timings.tokenize, 3),
        "decode_ms": round(1e3 * timings.decode, 3),
        "total_ms": round(total_ms, 3),
    }


def usage(timings: Timings, characters: int) -> dict[str, int]:
    """What was read and made."""
    return {
        "characters": characters,
        "sentences": timings.sentences,
        "source_tokens": timings.source_tokens,
        "target_tokens": timings.target_tokens,
        "retried_sentences": timings.retried,
        "cached_sentences": timings.cached,
    }


def models(service: Service) -> dict[str, Any]:
    """The loaded models."""
    told = []
    for one in service.bundles:
        facts = one.translator.bundle.describe()
        told.append(
            {
                "name": one.translator.bundle.name,
                "source": one.pair[0],
                "target": one.pair[1],
                "isa": one.translator.isa,
                "sha256": one.identity,
                "generation": facts["generation"],
                "parameters": facts["parameters"],
                "quality": facts["quality"],
            }
        )
    return {"models": told}


def sentence(told: Told, length_penalty: float, align: bool) -> dict[str, Any]:
    """A sentence of an answer."""
    candidates, texts = told.owner.candidates, told.texts
    best = candidates[0]
    found = {
        "source": told.source,
        "source_start": told.start,
        "target_start": told.target_start,
        "suspicious": _suspicious(told.source, texts[0]) or any(one.looped for one in best.found),
        "kept": not best.found,
        "attempts": told.owner.attempts,
        "hypotheses": [
            {
                **_hypothesis(text, one, length_penalty),
                **(_pieces(one, told.owner.codec.tokenizer) if align else {}),
            }
            for text, one in zip(texts, candidates, strict=True)
        ],
    }
    if align:
        found["alignment"] = _alignment(told, best)
    return found


def _text(one: TextAnswer, ask: Ask) -> dict[str, Any]:
    model = one.loaded.translator if one.loaded else None
    penalty = ask.decoding.get("length_penalty")
    if penalty is None:
        penalty = model.bundle.generation.length_penalty if model else 1.0
    ranks: Sequence[Sequence[Candidate]] = one.found.ranks if one.found else ((),)
    return {
        "text": one.texts[0],
        "source": one.source,
        "target": ask.target,
        "model": model.bundle.name if model else None,
        "detected": one.guess
        and {"language": one.guess.language, "confidence": round(one.guess.confidence, 4)},
        "hypotheses": [
            {
                "text": text,
                "score": round(score(chosen, penalty), 5),
                "truncated": any(found.truncated for candidate in chosen for found in candidate.found),
                "looped": any(found.looped for candidate in chosen for found in candidate.found),
            }
            for text, chosen in zip(one.texts, ranks, strict=True)
        ],
        "sentences": [
            sentence(told, penalty, ask.align) for told in (one.found.sentences if one.found else ())
        ],
    }


def _hypothesis(text: str, one: Candidate, length_penalty: float) -> dict[str, Any]:
    return {
        "text": text,
        "score": round(score([one], length_penalty), 5),
        "log_probability": round(one.log_probability, 5),
        "tokens": one.tokens,
        "token_log_probabilities": [
            round(value, 4) for found in one.found for value in found.token_log_probabilities
        ],
        "truncated": any(found.truncated for found in one.found),
        "looped": any(found.looped for found in one.found),
    }


def _pieces(one: Candidate, tokenizer: Tokenizer) -> dict[str, Any]:
    """The engine's view: pieces read and made, all parts in a row, and which stands for which."""
    read: list[str] = []
    made: list[str] = []
    stands_for: list[int] = []
    for ids, found in zip(one.sources, one.found, strict=True):
        stands_for += [len(read) + place for place in found.alignment]
        read += tokenizer.pieces(ids)
        made += tokenizer.pieces(found.tokens)
    return {"pieces": made, "source_pieces": read, "piece_alignment": stands_for}


def _alignment(told: Told, best: Candidate) -> list[dict[str, Any]]:
    """Words of the best translation with those of the source; offsets within the two sentences."""
    source_words = [match.span() for match in TOKEN.finditer(told.owner.text) if match.group().strip()]
    aligned, end = [], 0
    for word in best.words:
        start, end = end, end + len(word.text)
        places = [place - told.owner.start for place in word.sources]
        spans = [span for span in source_words if any(span[0] <= place < span[1] for place in places)]
        if spans and word.text.strip():
            aligned.append((start, end, spans))
    return [
        {
            "target": (told.target_offset(start), told.target_offset(end)),
            "source": [(told.source_offset(low), told.source_offset(high)) for low, high in spans],
        }
        for start, end, spans in aligned
    ]


def _suspicious(source: str, target: str) -> bool:
    """Whether the lengths hardly fit; short sentences may do what they like."""
    if max(len(source), len(target)) < _FEW:
        return False
    return not _SHORT < len(target) / len(source) < _LONG
