"""What a translator takes and gives: plain data."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import TypedDict


class Decoding(TypedDict, total=False):
    """How to decode; what is absent (or None) is the model's own default."""

    beam_size: int | None  # hypotheses kept at each step; 1 is greedy
    n_best: int  # translations wanted, at most beam_size (which is raised when it is absent)
    length_penalty: float | None  # exponent of the length in the score, 0 to 10
    max_length: int | None  # most target tokens of a sentence; from the model's length ratio when absent


@dataclass(frozen=True)
class Hypothesis:
    """One translation of a text."""

    text: str
    score: float  # sum of log-probabilities (base e, end tokens included) / tokens ** length_penalty
    truncated: bool  # the length limit cut it off


@dataclass(frozen=True)
class Translation:
    """The translations of one text, best first."""

    source: str
    hypotheses: tuple[Hypothesis, ...]

    @property
    def text(self) -> str:
        """The best translation."""
        return self.hypotheses[0].text

    @property
    def score(self) -> float:
        """The best translation's score."""
        return self.hypotheses[0].score

    @property
    def truncated(self) -> bool:
        """Whether the length limit cut the best translation off."""
        return self.hypotheses[0].truncated


@dataclass(frozen=True)
class TokenHypothesis:
    """One translation of a tokenised sentence."""

    tokens: tuple[str, ...]
    score: float
    log_probability: float
    token_log_probabilities: tuple[float, ...]  # one a token; the end token's is last, unless truncated
    truncated: bool
