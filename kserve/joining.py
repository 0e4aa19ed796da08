"""From the engine's hypotheses of sentences to answers about texts, and from its tokens to pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kserve import _engine
from kserve.results import Hypothesis, OnToken, TokenHypothesis
from kserve.text.job import Translated
from kserve.text.sentence import Candidate
from kserve.tokenizer import Tokenizer


def hypotheses_of(found: Translated, length_penalty: float) -> tuple[Hypothesis, ...]:
    """A text's translations as the library tells them."""
    return tuple(
        Hypothesis(
            text,
            score(chosen, length_penalty),
            truncated=any(one.truncated for candidate in chosen for one in candidate.found),
            looped=any(one.looped for candidate in chosen for one in candidate.found),
            timed_out=any(one.timed_out for candidate in chosen for one in candidate.found),
        )
        for text, chosen in zip(found.texts, found.ranks, strict=True)
    )


def with_pieces(hypothesis: _engine.Hypothesis, tokenizer: Tokenizer) -> TokenHypothesis:
    """A sentence's hypothesis with pieces instead of ids."""
    attention = hypothesis.attention
    return TokenHypothesis(
        tokens=tuple(tokenizer.pieces(hypothesis.tokens)),
        score=hypothesis.score,
        log_probability=hypothesis.log_probability,
        token_log_probabilities=tuple(hypothesis.token_log_probabilities),
        truncated=hypothesis.truncated,
        looped=hypothesis.looped,
        timed_out=hypothesis.timed_out,
        alignment=tuple(hypothesis.alignment),
        attention=() if attention is None else tuple(tuple(row) for row in attention.tolist()),
    )


def teller(
    call: OnToken, places: Sequence[tuple[int, int] | None], tokenizer: Tokenizer
) -> Callable[[int, int], None]:
    """What the engine calls: it knows sentences and ids, the caller texts, their sentences and pieces."""

    def tell(sentence: int, token: int) -> None:
        place = places[sentence]
        if place is not None:
            call(*place, tokenizer.pieces([token])[0])

    return tell


def score(chosen: Sequence[Candidate], length_penalty: float) -> float:
    """One sentence's own score; for several, the same formula over all their tokens."""
    found = [one for candidate in chosen for one in candidate.found]
    if len(found) == 1:
        return found[0].score
    tokens = sum(len(one.token_log_probabilities) for one in found)
    total = sum(one.log_probability for one in found)
    return float(total / tokens**length_penalty) if tokens else 0.0
