"""What a translator takes and gives: plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from kserve._engine import CancelToken

# Called with the number of the text, that of its segment (long texts have several, which are translated side
# by side), and the piece that was found.
OnToken = Callable[[int, int, str], None]


class Decoding(TypedDict, total=False):
    """How to decode; what is absent (or None) is the model's own default, or off."""

    beam_size: int | None  # hypotheses kept at each step; 1 is greedy
    n_best: int  # translations wanted, at most beam_size (which is raised when it is absent)
    length_penalty: float | None  # exponent of the length in the score, 0 to 10
    coverage_penalty: float | None  # weight in the score of source tokens that nothing looked at, 0 to 10
    patience: float | None  # a search ends when beam_size * patience hypotheses have ended, 1 to 10
    early_stop: bool | None  # False: it ends when no hypothesis can get better
    max_length: int | None  # most target tokens of a sentence; from the model's length ratio when absent
    max_length_ratio: float | None  # the same, for each source token
    min_length: int | None  # fewest target tokens, the end token included
    min_length_ratio: float | None  # the same, for each source token; the larger minimum counts
    shortlist: bool | None  # choose among tokens that may translate the source's, not the whole vocabulary
    suppress: Sequence[str] | None  # pieces that never come
    no_repeat_ngram: int | None  # no sequence of so many tokens comes twice
    repetition_penalty: float | None  # factor of the log-probability of tokens that have come, 1 to 100
    loop_guard: int | None  # end a hypothesis whose last n-gram has come so often in a row; 4 is safe
    temperature: float | None  # this or one of the next three: draw tokens; n_best tells how many samples
    top_k: int | None  # draw from the k best tokens only
    top_p: float | None  # draw from the best tokens that hold this share of the probability
    seed: int | None  # a sentence's draws depend on this and on its number in the call
    prefix: str | None  # text that every translation (its first segment, if it has several) begins with
    attention: bool | None  # translate_batch: give attention and alignment
    deadline: float | None  # seconds; then what has been found so far is given, marked `timed_out`
    cancel: CancelToken | None  # ends the call with `Cancelled` within one step of its cancel()
    on_token: OnToken | None  # told of every token as it is found; greedy search or one sample


@dataclass(frozen=True)
class Hypothesis:
    """One translation of a text."""

    text: str
    score: float  # sum of log-probabilities (base e, end tokens included) / tokens ** length_penalty
    truncated: bool  # some sentence has no end: length limit, loop or deadline
    looped: bool = False  # the loop guard ended a sentence
    timed_out: bool = False  # the deadline ended a sentence


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
        """Whether a sentence of the best translation has no end: length limit, loop or deadline."""
        return self.hypotheses[0].truncated


@dataclass(frozen=True)
class TokenHypothesis:
    """One translation of a tokenised sentence."""

    tokens: tuple[str, ...]
    score: float
    log_probability: float
    token_log_probabilities: tuple[float, ...]  # one a token; the end token's is last, unless truncated
    truncated: bool
    looped: bool = False
    timed_out: bool = False
    # Only with `attention`: for each token the source piece that it looked at most; the share of every source
    # token (the end token included), in rows like token_log_probabilities.
    alignment: tuple[int, ...] = ()
    attention: tuple[tuple[float, ...], ...] = ()
