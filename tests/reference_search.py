"""Search with every rule of docs/design.md, "Decoding", in plain Python over the float64 model.

It looks at every token at every step and never stops before it must, so what the engine leaves out to be
fast (tokens outside its lists, hypotheses that can win no more) is checked too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from reference_model import BEGIN, END, NEVER_PRODUCED, Floats, ReferenceModel

from kserve import _engine


@dataclass(frozen=True)
class Rules:
    """What the engine's options say, and the sentence's own prefix."""

    beam: int = 1
    length_penalty: float = 1.0
    cap: int = 20
    floor: int = 0
    early_stop: bool = True
    patience: float = 1.0
    coverage: float = 0.0
    suppressed: tuple[int, ...] = ()
    ngram: int = 0
    repetition: float = 1.0
    loop: int = 0
    prefix: tuple[int, ...] = ()

    def options(self, attention: bool = False) -> _engine.DecodingOptions:
        """The same for the engine."""
        return _engine.DecodingOptions(
            beam_size=self.beam,
            n_best=self.beam,
            length_penalty=self.length_penalty,
            max_length=self.cap,
            rules=_engine.BeamRules(self.early_stop, self.patience, self.coverage),
            constraints=_engine.Constraints(
                min_length=self.floor,
                suppressed=self.suppressed,
                no_repeat_ngram=self.ngram,
                repetition_penalty=self.repetition,
                loop_guard=self.loop,
            ),
            attention=attention,
        )


@dataclass(frozen=True)
class Guess:
    """A hypothesis; `ending` is "" while it lives."""

    tokens: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    ranked: float = 0.0  # the sum that is compared
    attention: tuple[Floats, ...] = field(default=(), compare=False)
    ending: str = ""

    def score(self, rules: Rules) -> float:
        base = self.ranked / math.pow(len(self.log_probabilities), rules.length_penalty)
        if not rules.coverage:
            return base
        covered = np.clip(np.sum(self.attention, axis=0), 1e-6, 1.0)
        return base + rules.coverage * float(np.log(covered).sum())


def search(model: ReferenceModel, source: list[int], rules: Rules) -> list[Guess]:
    """The `beam` best hypotheses, best first."""
    states = model.encode(source)
    live, finished = [Guess()], list[Guess]()
    wanted = math.ceil(rules.beam * rules.patience)
    for position in range(rules.cap):
        ways = [(way, row) for row, guess in enumerate(live) for way in _ways(model, states, guess, rules)]
        ways.sort(key=lambda one: (-one[0].ranked, one[0].tokens[-1], one[1]))
        ways = ways[: 1 if rules.beam == 1 else 2 * rules.beam]
        for way, _ in ways[: rules.beam]:
            if way.tokens[-1] == END:
                finished.append(_ended(way, "end", way.tokens[:-1]))
        live = []
        if rules.early_stop and sum(guess.ending != "loop" for guess in finished) >= wanted:
            break
        for way, _ in ways:
            if way.tokens[-1] == END or len(live) == rules.beam:
                continue
            if rules.loop and position + 1 < rules.cap and loops(way.tokens, rules.loop):
                finished.append(_ended(way, "loop", way.tokens))
            else:
                live.append(way)
        if position + 1 == rules.cap:
            finished += [_ended(guess, "cap", guess.tokens) for guess in live]
    finished.sort(key=lambda guess: (guess.ending == "loop", -guess.score(rules)))
    return finished[: rules.beam]


def loops(tokens: tuple[int, ...], times: int) -> bool:
    """Whether some n-gram of at most 16 tokens ends the tokens, `times` times in a row."""
    return any(tokens[-period * times :] == tokens[-period:] * times for period in range(1, 17))


def _ways(model: ReferenceModel, states: Floats, guess: Guess, rules: Rules) -> list[Guess]:
    """Every token that may follow, added to the guess; the end token alone where there is none."""
    scores = model.log_probabilities(states, [BEGIN, *guess.tokens])
    attention = model.attention[f"decoder.{len(model.sizes.decoder_kernels) - 1}"][-1]
    position = len(guess.tokens)
    if position < len(rules.prefix):
        allowed = [rules.prefix[position]]
        factor = 1.0
    else:
        barred = {*NEVER_PRODUCED, *rules.suppressed, *_completing(guess.tokens, rules.ngram)}
        if position + 1 < rules.floor:
            barred.add(END)
        allowed = [token for token in range(len(scores)) if token not in barred] or [END]
        factor = rules.repetition
    ways = []
    for token in allowed:
        ranked = float(scores[token]) * (factor if token in guess.tokens else 1.0)
        ways.append(
            Guess(
                (*guess.tokens, token),
                (*guess.log_probabilities, float(scores[token])),
                guess.ranked + ranked,
                (*guess.attention, attention),
            )
        )
    return ways


def _completing(tokens: tuple[int, ...], size: int) -> set[int]:
    """Tokens that would make an n-gram of this size come a second time."""
    if size == 0:
        return set()
    start = tokens[len(tokens) - size + 1 :]
    seen = [tokens[at : at + size] for at in range(len(tokens) - size + 1)]
    return {gram[-1] for gram in seen if gram[:-1] == start}


def _ended(guess: Guess, ending: str, tokens: tuple[int, ...]) -> Guess:
    return Guess(tokens, guess.log_probabilities, guess.ranked, guess.attention, ending)
