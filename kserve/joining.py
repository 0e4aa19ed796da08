"""From the engine's hypotheses of sentences to answers about texts, and from its tokens to pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kserve import _engine
from kserve.results import Hypothesis, OnToken, TokenHypothesis
from kserve.segment import Part
from kserve.tokenizer import Tokenizer


def joined_hypotheses(
    plan: list[Part],
    answers: list[list[_engine.Hypothesis] | None],
    length_penalty: float,
    tokenizer: Tokenizer,
) -> tuple[Hypothesis, ...]:
    """Whole texts: the k-th one takes every segment's k-th hypothesis, or its last."""
    ranks = max((len(answer) for answer in answers if answer), default=1)
    joined = []
    for rank in range(ranks):
        pieces, chosen = [], []
        for part, answer in zip(plan, answers, strict=True):
            if answer is None:
                pieces.append(part.text)
                continue
            chosen.append(answer[min(rank, len(answer) - 1)])
            pieces.append(tokenizer.decode(chosen[-1].tokens))
        joined.append(
            Hypothesis(
                "".join(pieces),
                _score(chosen, length_penalty),
                truncated=any(one.truncated for one in chosen),
                looped=any(one.looped for one in chosen),
                timed_out=any(one.timed_out for one in chosen),
            )
        )
    return tuple(joined)


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


def numbered(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """(text, part) of every sentence as (text, number of the sentence in its text)."""
    counts: dict[int, int] = {}
    numbered = []
    for text, _ in places:
        numbered.append((text, counts.get(text, 0)))
        counts[text] = counts.get(text, 0) + 1
    return numbered


def teller(
    call: OnToken, places: Sequence[tuple[int, int]], tokenizer: Tokenizer
) -> Callable[[int, int], None]:
    """What the engine calls: it knows sentences and ids, the caller texts, segments and pieces."""

    def tell(sentence: int, token: int) -> None:
        text, segment = places[sentence]
        call(text, segment, tokenizer.pieces([token])[0])

    return tell


def _score(chosen: list[_engine.Hypothesis], length_penalty: float) -> float:
    """One segment's own score; for several, the same formula over all their tokens."""
    if len(chosen) == 1:
        return chosen[0].score
    tokens = sum(len(hypothesis.token_log_probabilities) for hypothesis in chosen)
    total = sum(hypothesis.log_probability for hypothesis in chosen)
    return float(total / tokens**length_penalty) if tokens else 0.0
