"""The lexical shortlist in the engine: against a float64 model of the same tokens, and damaged ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from reference_model import END, Floats, Guess, ReferenceModel, Tensors
from small_models import sentences, small_model

from kserve import _engine
from kserve._engine import DecodingOptions

BOUND = 2e-3  # of log-probabilities: the log-sum-exp adds up logits of hidden states in 8 bits
COUNT = 9
VOCAB = 61
ALWAYS = [6, 17, 40]
GREEDY = DecodingOptions(beam_size=1)


def lists_of(seed: int = 3, each: int = 6) -> list[list[int]]:
    """Tokens for every source token, from none to twice as many as `each`."""
    rng = np.random.default_rng(seed)
    return [
        sorted(int(i) for i in rng.choice(VOCAB, rng.integers(0, 2 * each), replace=False))
        for _ in range(VOCAB)
    ]


def tensors_of(lists: list[list[int]], always: list[int]) -> Tensors:
    first = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    tokens = np.array([token for one in lists for token in one], np.int32)
    return {
        "shortlist.first": first,
        "shortlist.tokens": tokens,
        "shortlist.always": np.array(always, np.int32),
    }


@cache
def engine(isa: str = "", threads: int = 1) -> _engine.Engine:
    model = small_model("kmatrix")
    tensors = {**model.tensors, **tensors_of(lists_of(), ALWAYS)}
    return _engine.Engine(model.sizes.architecture(), tensors, isa=isa, threads=threads)


class Restricted(ReferenceModel):
    """The float64 model when it looks at some tokens only."""

    def __init__(self, ids: set[int]) -> None:
        model = small_model("kmatrix")
        super().__init__(model.sizes, model.tensors)
        self.ids = sorted(ids - {0, 1, 3})

    def log_probabilities(self, states: Floats, prefix: list[int]) -> Floats:
        whole = super().log_probabilities(states, prefix)
        result: Floats = np.full_like(whole, -np.inf)
        result[self.ids] = whole[self.ids] - np.log(np.exp(whole[self.ids]).sum())
        return result


def listed(source: list[int]) -> set[int]:
    return {*ALWAYS, END, *(token for one in source for token in lists_of()[one])}


@cache
def expected(beam: int) -> list[list[Guess]]:
    """What the float64 model finds among the listed tokens of `sentences(COUNT, VOCAB)`."""
    found = []
    for source in sentences(COUNT, VOCAB):
        cap = small_model("kmatrix").cap(source)
        found.append(Restricted(listed(source)).translate(source, beam, 0.8, cap)[:beam])
    return found


@pytest.mark.parametrize("beam", [1, 3])
def test_search_among_the_listed_tokens_matches_the_reference(isa: str, beam: int) -> None:
    sources = sentences(COUNT, VOCAB)
    options = DecodingOptions(beam_size=beam, n_best=beam, length_penalty=0.8)
    found = engine(isa).translate(sources, options)
    different = 0
    for source, hypotheses, guesses in zip(sources, found, expected(beam), strict=True):
        different += [tuple(one.tokens) for one in hypotheses] != [guess.tokens for guess in guesses]
        for one, guess in zip(hypotheses, guesses, strict=True):
            assert set(one.tokens) <= listed(source)
            assert one.score == pytest.approx(guess.score(0.8), abs=BOUND)
    assert different <= (beam > 1), "only where two hypotheses score alike may others be found"


def test_whole_batches_are_what_their_sentences_are(isa: str) -> None:
    sources = sentences(13, VOCAB, longest=20)
    options = DecodingOptions(beam_size=3, n_best=3)
    together = engine(isa, threads=2).translate(sources, options)
    for source, hypotheses in zip(sources, together, strict=True):
        (alone,) = engine(isa).translate([source], options)
        for left, right in zip(alone, hypotheses, strict=True):
            assert left.tokens == right.tokens
            assert left.token_log_probabilities == right.token_log_probabilities  # to the bit


def test_a_list_that_holds_what_is_needed_changes_nothing(isa: str) -> None:
    """Greedy: the tokens of the whole vocabulary's translation are enough to find it again."""
    model, sources = small_model("kmatrix"), sentences(COUNT, VOCAB)
    for source, (best, *_) in zip(sources, model.engine(isa).translate(sources, GREEDY), strict=True):
        lists: list[list[int]] = [[] for _ in range(VOCAB)]
        lists[source[0]] = sorted(set(best.tokens))
        tensors = {**model.tensors, **tensors_of(lists, [])}
        short = _engine.Engine(model.sizes.architecture(), tensors, isa=isa)
        ((again, *_),) = short.translate([source], GREEDY)
        assert (again.tokens, again.truncated) == (best.tokens, best.truncated)
        ((whole, *_),) = short.translate([source], DecodingOptions(beam_size=1, shortlist=False))
        assert whole.token_log_probabilities == best.token_log_probabilities


def test_a_forced_beginning_need_not_be_listed() -> None:
    sources = sentences(COUNT, VOCAB)
    prefixes = [sorted(set(range(4, VOCAB)) - listed(source))[:2] for source in sources]
    found = engine().translate(sources, GREEDY, prefixes)
    for source, prefix, (one, *_) in zip(sources, prefixes, found, strict=True):
        assert one.tokens[:2] == prefix
        reference = Restricted(listed(source) | set(prefix))
        assert set(one.tokens) <= set(reference.ids)
        states = reference.encode(source)
        for place, token in enumerate(one.tokens[2:], 2):
            scores = reference.log_probabilities(states, [1, *one.tokens[:place]])
            assert scores[token] >= scores.max() - BOUND


def test_a_given_target_is_scored_against_the_whole_vocabulary() -> None:
    model, sources = small_model("kmatrix"), sentences(COUNT, VOCAB)
    targets = [source[:-1] for source in sentences(COUNT, VOCAB, seed=8, longest=20)]
    assert engine().score(sources, targets) == model.engine().score(sources, targets)


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(beam_size=20, n_best=20, max_length=6),  # more than there are tokens at first
        DecodingOptions(n_best=4, sampling=_engine.Sampling(temperature=3.0, seed=1)),
        DecodingOptions(n_best=4, sampling=_engine.Sampling(top_k=2, seed=1)),
        DecodingOptions(beam_size=4, constraints=_engine.Constraints(no_repeat_ngram=1)),
        DecodingOptions(
            beam_size=4, constraints=_engine.Constraints(suppressed=ALWAYS, repetition_penalty=2.0)
        ),
    ],
    ids=["wide", "sampling", "top-k", "no-repeat", "suppressed"],
)
def test_no_way_of_decoding_leaves_the_list(options: DecodingOptions) -> None:
    sources = sentences(COUNT, VOCAB)
    for source, hypotheses in zip(sources, engine().translate(sources, options), strict=True):
        assert hypotheses
        assert all(set(one.tokens) <= listed(source) for one in hypotheses)
        assert all(np.isfinite(one.score) for one in hypotheses)


def test_an_empty_list_ends_at_once() -> None:
    model = small_model("kmatrix")
    tensors = {**model.tensors, **tensors_of([[] for _ in range(VOCAB)], [])}
    short = _engine.Engine(model.sizes.architecture(), tensors)
    assert [one.tokens for (one, *_) in short.translate(sentences(3, VOCAB), GREEDY)] == [[]] * 3


Damage = Callable[[Tensors], Any]
UNFIT = "the shortlist's tensors do not fit one another"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "begins-late": (lambda t: t["shortlist.first"].__setitem__(0, 1), UNFIT),
    "falls": (lambda t: t["shortlist.first"].__setitem__(30, 0), UNFIT),
    "negative-place": (lambda t: t["shortlist.first"].__setitem__(5, -7), UNFIT),
    "place-too-large": (lambda t: t["shortlist.first"].__setitem__(-1, 2**31 - 1), UNFIT),
    "token-too-large": (lambda t: t["shortlist.tokens"].__setitem__(3, VOCAB), UNFIT),
    "negative-token": (lambda t: t["shortlist.tokens"].__setitem__(-1, -1), UNFIT),
    "always-too-large": (lambda t: t["shortlist.always"].__setitem__(0, 2**30), UNFIT),
    "too-few-tokens": (
        lambda t: t.update({"shortlist.tokens": t["shortlist.tokens"][:-1].copy()}),
        UNFIT,
    ),
    "too-few-places": (
        lambda t: t.update({"shortlist.first": t["shortlist.first"][:-1].copy()}),
        r"'shortlist.first' has shape \(61,\), wanted \(62,\)",
    ),
    "two-dimensions": (
        lambda t: t.update({"shortlist.tokens": t["shortlist.tokens"][None].copy()}),
        "'shortlist.tokens' has shape",
    ),
    "type": (
        lambda t: t.update({"shortlist.always": t["shortlist.always"].astype(np.int64)}),
        "'shortlist.always' is of type int64, wanted int32",
    ),
    "no-places": (lambda t: t.pop("shortlist.first"), "'shortlist.always' does not belong"),
    "no-tokens": (lambda t: t.pop("shortlist.tokens"), "'shortlist.tokens' is missing"),
    "no-always": (lambda t: t.pop("shortlist.always"), "'shortlist.always' is missing"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_list_is_refused(case: str) -> None:
    model, (damage, message) = small_model("kmatrix"), DAMAGES[case]
    tensors = {**model.tensors, **tensors_of(lists_of(), ALWAYS)}
    damage(tensors)
    with pytest.raises(_engine.EngineError, match=message):
        _engine.Engine(model.sizes.architecture(), tensors)


def test_no_damage_of_numbers_goes_further_than_an_error() -> None:
    model, rng = small_model("kmatrix"), np.random.default_rng(11)
    refused = 0
    for _ in range(300):
        tensors = {**model.tensors, **tensors_of(lists_of(), ALWAYS)}
        name = f"shortlist.{rng.choice(['first', 'tokens', 'always'])}"
        values = rng.choice([-(2**31), -1, 0, 2, VOCAB - 1, VOCAB, 10_000, 2**31 - 1], 2)
        tensors[name][rng.integers(0, len(tensors[name]), 2)] = values
        try:
            damaged = _engine.Engine(model.sizes.architecture(), tensors)
        except _engine.EngineError:
            refused += 1
            continue
        assert len(damaged.translate(sentences(5, VOCAB), GREEDY)) == 5
    assert 100 < refused < 300
