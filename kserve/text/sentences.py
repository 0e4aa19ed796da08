"""Where sentences begin and end in a line; the rules are those of the library sentencex."""

from __future__ import annotations

import re

import sentencex

# "am 3. Oktober", "im 19. Jahrhundert": in these languages a number with a point is an ordinal.
_ORDINALS = frozenset({"cs", "da", "de", "et", "fi", "hr", "hu", "nb", "no", "pl", "sk", "sl"})
_ORDINAL = re.compile(r"(?<!\w)\d{1,3}\.\s*$")


def sentences(line: str, language: str) -> list[tuple[int, int]]:
    """Spans of the sentences of a line, in order; together they are the whole line, spaces included.

    A language that the library does not know is split by its general rules.
    """
    found = sentencex.get_sentence_boundaries(language, line)
    spans: list[tuple[int, int]] = []
    for one in found:
        start, end = one["start_index"], one["end_index"]
        if spans and language in _ORDINALS and _ORDINAL.search(line, spans[-1][1] - 8, spans[-1][1]):
            start = spans.pop()[0]
        spans.append((start, end))
    return spans
