"""Every rule of decoding against the float64 search that knows the rule and nothing of the engine."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from reference_model import END, ReferenceModel, Sizes, random_tensors
from reference_search import Guess, Rules, loops, search
from small_models import sentences, small_model

from kserve import _engine
from kserve._engine import BeamRules, Constraints, DecodingOptions

# The log-sum-exp adds up logits of hidden states in 8 bits.
BOUND = 2e-3
COUNT = 9

BEAM = Rules(beam=3, length_penalty=0.8)
RULES = {
    "patience": replace(BEAM, patience=2.0),
    "no-early-stop": replace(BEAM, early_stop=False),
    "coverage": replace(BEAM, coverage=0.5, early_stop=False),
    "min-length": replace(BEAM, floor=9),
    "min-length-greedy": Rules(floor=12),
    "suppressed": replace(BEAM, suppressed=(5, 9, 12, 33, 60)),
    "suppressed-greedy": Rules(suppressed=tuple(range(20, 61))),
    "all-suppressed": replace(BEAM, suppressed=tuple(range(3, 61))),
    "no-repeat-1": replace(BEAM, ngram=1),
    "no-repeat-2": replace(BEAM, ngram=2),
    "no-repeat-greedy": Rules(ngram=2),
    "repetition": replace(BEAM, repetition=1.7),
    "repetition-greedy": Rules(repetition=1.5),
    "prefix": replace(BEAM, prefix=(11, 40, 7)),
    "prefix-greedy": Rules(prefix=(50,)),
    "prefix-of-suppressed": replace(BEAM, prefix=(11, 11, 11), suppressed=(11,), ngram=1),
    "loop": replace(BEAM, loop=2),
    "loop-greedy": Rules(loop=2),
    "together": replace(
        BEAM, coverage=0.2, floor=6, suppressed=(8, 30), ngram=3, repetition=1.2, prefix=(21,), patience=1.5
    ),
}


@cache
def guesses_of(rules: Rules) -> list[list[Guess]]:
    model = small_model("kmatrix")
    return [search(model.reference, source, rules) for source in sentences(COUNT, model.sizes.vocab_size)]


def expected(name: str) -> list[list[Guess]]:
    return guesses_of(RULES[name])


def assert_equal(found: list[_engine.Hypothesis], guesses: list[Guess], rules: Rules) -> None:
    assert [tuple(one.tokens) for one in found] == [guess.tokens for guess in guesses]
    for one, guess in zip(found, guesses, strict=True):
        assert (one.truncated, one.looped) == (guess.ending != "end", guess.ending == "loop")
        assert not one.timed_out
        assert one.score == pytest.approx(guess.score(rules), abs=BOUND)
        assert one.token_log_probabilities == pytest.approx(guess.log_probabilities, abs=BOUND)
        assert one.log_probability == pytest.approx(sum(one.token_log_probabilities), rel=1e-12)


@pytest.mark.parametrize("name", RULES)
def test_rule_matches_the_reference(name: str, isa: str) -> None:
    model, rules = small_model("kmatrix"), RULES[name]
    sources = sentences(COUNT, model.sizes.vocab_size)
    prefixes = [rules.prefix] * COUNT if rules.prefix else []
    found = model.engine(isa).translate(sources, rules.options(), prefixes)
    different = 0
    for hypotheses, guesses in zip(found, expected(name), strict=True):
        if [tuple(one.tokens) for one in hypotheses] == [guess.tokens for guess in guesses]:
            assert_equal(hypotheses, guesses, rules)
            continue
        different += 1
    assert different <= (rules.beam > 1), "only where two hypotheses score alike may others be found"


def test_reference_rules_say_something() -> None:
    """Each rule changes what is found, so agreement above is no agreement on nothing."""
    for name, rules in RULES.items():
        plain = Rules(beam=rules.beam, length_penalty=rules.length_penalty)
        assert expected(name) != guesses_of(plain), name
    endings = {guess.ending for name in RULES for found in expected(name) for guess in found}
    assert endings == {"end", "cap", "loop"}


LARGE = Sizes(vocab_size=400)
MANY_SUPPRESSED = replace(BEAM, suppressed=tuple(range(4, 400, 4)), repetition=1.3)


@cache
def guesses_of_large() -> list[list[Guess]]:
    reference = ReferenceModel(LARGE, random_tensors(LARGE, 4))
    return [search(reference, source, MANY_SUPPRESSED) for source in sentences(4, LARGE.vocab_size)]


def test_many_suppressed_tokens_of_a_large_vocabulary(isa: str) -> None:
    """Lists of more than 64 tokens are selected in another way."""
    engine = _engine.Engine(LARGE.architecture(), random_tensors(LARGE, 4), isa=isa)
    found = engine.translate(sentences(4, LARGE.vocab_size), MANY_SUPPRESSED.options())
    for hypotheses, guesses in zip(found, guesses_of_large(), strict=True):
        assert_equal(hypotheses, guesses, MANY_SUPPRESSED)


def test_settled_beams_stop_without_changing_the_best() -> None:
    """n_best 1 ends as soon as nothing can beat the best; the whole beam takes longer and agrees."""
    model = small_model("kmatrix")
    sources = sentences(30, model.sizes.vocab_size)
    rules = BeamRules(early_stop=False)
    one, all_five = (
        model.engine().translate(sources, DecodingOptions(beam_size=5, n_best=n_best, rules=rules))
        for n_best in (1, 5)
    )
    assert [found[0].tokens for found in one] == [found[0].tokens for found in all_five]
    assert [found[0].score for found in one] == [found[0].score for found in all_five]


def test_relative_minimum_counts_source_tokens() -> None:
    model = small_model("kmatrix")
    sources = sentences(COUNT, model.sizes.vocab_size)
    options = DecodingOptions(beam_size=2, n_best=2, constraints=Constraints(min_length_ratio=1.5))
    for source, found in zip(sources, model.engine().translate(sources, options), strict=True):
        for one in found:
            assert len(one.token_log_probabilities) >= math.ceil(1.5 * len(source))


def test_minimum_beyond_the_cap_is_the_cap() -> None:
    model = small_model("kmatrix")
    options = DecodingOptions(max_length=5, constraints=Constraints(min_length_ratio=100.0))
    found = model.engine().translate(sentences(COUNT, model.sizes.vocab_size), options)
    assert all(len(one.token_log_probabilities) == 5 for (one,) in found)


@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_attention_matches_the_reference(layer: int, isa: str) -> None:
    model = small_model("kmatrix")
    options = DecodingOptions(beam_size=3, n_best=3, attention=True, attention_layer=layer)
    sources = sentences(COUNT, model.sizes.vocab_size)
    for source, found in zip(sources, model.engine(isa).translate(sources, options), strict=True):
        states = model.reference.encode(source)
        for one in found:
            model.reference.log_probabilities(states, [1, *one.tokens])
            wanted = model.reference.attention[f"decoder.{layer % 2}"][: len(one.token_log_probabilities)]
            assert one.attention is not None
            np.testing.assert_allclose(one.attention, wanted, atol=1e-5)
            columns = max(len(source) - 1, 1)
            assert one.alignment == [int(row[:columns].argmax()) for row in one.attention[: len(one.tokens)]]


def test_attention_is_not_there_unless_asked_for() -> None:
    model = small_model("kmatrix")
    (found,) = model.engine().translate([[5, END]], DecodingOptions())[0]
    assert found.attention is None
    assert found.alignment == []


def test_scores_of_given_targets_match_the_reference(isa: str) -> None:
    model = small_model("kmatrix")
    sources = sentences(COUNT, model.sizes.vocab_size)
    targets = [source[:-1] for source in sentences(COUNT, model.sizes.vocab_size, seed=8, longest=20)]
    targets[3] = []
    targets[5][0] = 0  # the unknown token is scored, though never produced
    found = model.engine(isa).score(sources, targets)
    for source, target, scores in zip(sources, targets, found, strict=True):
        states = model.reference.encode(source)
        wanted = [
            float(model.reference.log_probabilities(states, [1, *target[:place]])[token])
            for place, token in enumerate([*target, END])
        ]
        assert scores == pytest.approx(wanted, abs=BOUND)


def test_a_translation_scores_as_it_was_found() -> None:
    model = small_model("kmatrix")
    sources = sentences(COUNT, model.sizes.vocab_size)
    engine = model.engine()
    found = [one for (one, *_) in engine.translate(sources, DecodingOptions(beam_size=4))]
    scores = engine.score(sources, [one.tokens for one in found])
    for one, score in zip(found, scores, strict=True):
        count = len(one.token_log_probabilities)
        assert score[:count] == one.token_log_probabilities  # to the bit


def test_longest_target_is_scored() -> None:
    model = small_model("dense")
    longest = model.sizes.max_positions - 2
    assert len(model.engine().score([[5, END]], [[7] * longest])[0]) == longest + 1
    with pytest.raises(_engine.EngineError, match=f"target 0 has {longest + 1} tokens.*at most {longest}"):
        model.engine().score([[5, END]], [[7] * (longest + 1)])


def test_prefix_for_some_sentences_only() -> None:
    model = small_model("kmatrix")
    sources = sentences(4, model.sizes.vocab_size)
    engine, options = model.engine(), DecodingOptions(beam_size=2, n_best=2)
    plain = engine.translate(sources, options)
    mixed = engine.translate(sources, options, [[], [9, 10], [], []])
    assert all(one.tokens[:2] == [9, 10] for one in mixed[1])
    for row in (0, 2, 3):
        assert [one.tokens for one in mixed[row]] == [one.tokens for one in plain[row]]


def test_loop_guard_names_loops_of_any_period() -> None:
    assert loops((4, 5, 6, 5, 6, 5, 6), 3)
    assert not loops((4, 5, 6, 5, 6, 5, 7), 2)


@pytest.mark.parametrize(
    ("arguments", "prefixes", "message"),
    [
        ({"rules": BeamRules(patience=0.5)}, [], "patience is 0.5.*wanted 1"),
        ({"rules": BeamRules(coverage_penalty=-1)}, [], "coverage_penalty is -1"),
        ({"constraints": Constraints(repetition_penalty=0.9)}, [], "repetition_penalty is 0.9.*wanted 1"),
        ({"constraints": Constraints(repetition_penalty=math.nan)}, [], "repetition_penalty is nan"),
        ({"constraints": Constraints(no_repeat_ngram=-1)}, [], "no_repeat_ngram is -1"),
        ({"constraints": Constraints(loop_guard=1)}, [], "loop_guard is 1, wanted 0 .off. or at least 2"),
        ({"constraints": Constraints(suppressed=[61])}, [], "a suppressed id is 61, wanted 0 to 60"),
        ({"constraints": Constraints(min_length=9), "max_length": 8}, [], "min_length is 9, wanted 0 to 8"),
        ({"attention_layer": 2}, [], "attention_layer is 2, wanted -1 to 1"),
        ({}, [[5]] * 3, "3 prefixes for 2 sources"),
        ({}, [[], [99]], "prefix 1 has id 99 at place 0"),
        ({}, [[2], []], "prefix 0 holds an id of 0 to 3"),
        ({"max_length": 3}, [[], [5, 6, 7]], "prefix 1 has 3 tokens, but .* may have 3 with the end token"),
        ({}, [[5] * 60, []], "prefix 0 has 60 tokens"),
    ],
)
def test_impossible_option(arguments: dict[str, Any], prefixes: list[list[int]], message: str) -> None:
    with pytest.raises(_engine.EngineError, match=message):
        small_model("dense").engine().translate([[5, 2], [6, 2]], DecodingOptions(**arguments), prefixes)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([], "0 targets for 1 sources"),
        ([[5, 2]], "target 0 holds an id of 1 to 3"),
        ([[99]], "target 0 has id 99"),
    ],
)
def test_target_that_cannot_be_scored(targets: list[list[int]], message: str) -> None:
    with pytest.raises(_engine.EngineError, match=message):
        small_model("dense").engine().score([[5, 2]], targets)


def test_options_out_of_range_are_option_errors() -> None:
    assert issubclass(_engine.OptionError, _engine.EngineError)
    with pytest.raises(_engine.OptionError):
        small_model("dense").engine().translate([[5, 2]], DecodingOptions(beam_size=1000))
