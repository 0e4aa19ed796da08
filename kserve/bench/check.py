"""What an engine's answers must be before it is timed. No figure is printed for a wrong answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from kserve.bench.records import Case
from kserve.bench.rivals import SAME_WEIGHTS, Answer
from kserve.errors import KserveError

# Near ties: rounding in another order may turn one sentence in so many.
_SENTENCES_A_MISS = 200
# Error of the encoder's states, root mean square over that of the states themselves.
_ENCODER_ERROR = {"kserve-dense-fp16": 0.01, "kserve-dense-int8": 0.1}
# A token of another rounding of the same weights is its model's best, or within this many standard
# deviations of the logits of it: halves are off by 2^-11 a factor, some twenty factors a layer.
_WORST_GAP = 0.2
_SCORE_ERROR = 1e-3  # of two beam searches over the same weights, relative


class DisagreementError(KserveError):
    """Two engines that hold the same weights gave different answers, so nothing is timed."""


def check_answers(engine: str, got: Sequence[list[int]], wanted: Sequence[list[int]]) -> None:
    """Raise DisagreementError unless the tokens are the same."""
    wrong = [i for i, (left, right) in enumerate(zip(got, wanted, strict=True)) if left != right]
    if len(wrong) * _SENTENCES_A_MISS > len(wanted):
        raise DisagreementError(
            f"kserve and {engine} differ on {len(wrong)} of {len(wanted)} sentences, first on number "
            f"{wrong[0] + 1}; no figure is printed for a wrong answer"
        )


def check_scores(engine: str, got: Sequence[float], wanted: Sequence[float]) -> None:
    """The same for beam search, whose ties are too many for equal tokens: its best scores are equal."""
    worst = max(abs(left - right) / max(abs(right), 1e-6) for left, right in zip(got, wanted, strict=True))
    if not worst <= _SCORE_ERROR:
        raise DisagreementError(
            f"the best scores of kserve and {engine} differ by {worst:.2g} of their size; at most "
            f"{_SCORE_ERROR:g} can be rounding"
        )


def check_encoder(engine: str, got: Any, wanted: Any) -> None:
    """A twin of lower precision cannot give the same tokens; its encoder's states must be near."""
    error = float(np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)))
    if not error <= _ENCODER_ERROR[engine]:
        raise DisagreementError(
            f"the encoder's states of {engine} are off by {error:.2g} of their size; its precision explains "
            f"at most {_ENCODER_ERROR[engine]:g}"
        )


def check_gaps(engine: str, gaps: Sequence[float]) -> None:
    """kserve's tokens must be the best ones of the unrounded weights too, or nearly."""
    if not max(gaps) <= _WORST_GAP:
        raise DisagreementError(
            f"a token of kserve's is {max(gaps):.2g} standard deviations below the best one of {engine}; "
            f"rounding explains at most {_WORST_GAP:g}"
        )


def check_lengths(engine: str, answers: Sequence[Sequence[int]], wanted: int) -> None:
    """A forced length was kept."""
    wrong = [len(tokens) for tokens in answers if len(tokens) != wanted]
    if wrong:
        raise DisagreementError(f"{engine} gave {wrong[0]} tokens where {wanted} were forced")


def check_listed(engine: str, answers: Sequence[Sequence[int]], allowed: Sequence[Collection[int]]) -> None:
    """No token but those that the shortlist allows each sentence."""
    for tokens, listed in zip(answers, allowed, strict=True):
        others = set(tokens).difference(listed)
        if others:
            raise DisagreementError(
                f"{engine} gave token {min(others)}, which the sentence's shortlist lacks"
            )


def check_case(case: Case, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Every answer of one case, by engine: forced lengths, and what engines of the same weights say."""
    wanted = answers["kserve"]
    for engine, found in answers.items():
        tokens = [answer.tokens for answer in found]
        if case.target_tokens:
            check_lengths(engine, tokens, case.target_tokens)
        if engine not in SAME_WEIGHTS:
            continue
        if case.beam == 1:
            check_answers(engine, tokens, [answer.tokens for answer in wanted])
        else:
            check_scores(engine, [answer.score for answer in found], [answer.score for answer in wanted])
