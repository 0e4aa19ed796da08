"""Sampling: drawn from the right distribution, and the same draws whatever stands beside a sentence."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from reference_model import BEGIN, NEVER_PRODUCED, Floats
from small_models import sentences, small_model

from kserve import _engine
from kserve._engine import Constraints, DecodingOptions, Sampling

SOURCE = [5, 17, 9, 2]
DRAWS = 4000


def first_tokens(sampling: Sampling, constraints: Constraints | None = None) -> Counter[int]:
    """How often each token is drawn first; 2 stands for the end token."""
    options = DecodingOptions(
        max_length=1, n_best=100, sampling=sampling, constraints=constraints or Constraints()
    )
    found = small_model("kmatrix").engine().translate([SOURCE] * (DRAWS // 100), options)
    return Counter(one.tokens[0] if one.tokens else 2 for samples in found for one in samples)


def distribution(temperature: float = 1.0) -> Floats:
    """The float64 model's, of the first token, without the ids that are never produced."""
    reference = small_model("kmatrix").reference
    scores = reference.log_probabilities(reference.encode(SOURCE), [BEGIN]) / temperature
    scores[list(NEVER_PRODUCED)] = -np.inf
    raised = np.exp(scores - scores.max())
    shares: Floats = raised / raised.sum()
    return shares


def only(shares: Floats, best: int) -> Floats:
    """The distribution over the best tokens alone."""
    kept = np.zeros_like(shares)
    order = np.argsort(-shares)[:best]
    kept[order] = shares[order] / shares[order].sum()
    return kept


def nucleus(shares: Floats, top_p: float) -> int:
    return int(np.searchsorted(np.sort(shares)[::-1].cumsum(), top_p)) + 1


@pytest.mark.parametrize(
    ("sampling", "wanted"),
    [
        pytest.param(Sampling(temperature=20.0), lambda: distribution(20.0), id="all"),
        pytest.param(Sampling(temperature=20.0, top_k=4), lambda: only(distribution(20.0), 4), id="top-k"),
        pytest.param(
            Sampling(temperature=20.0, top_p=0.6),
            lambda: only(distribution(20.0), nucleus(distribution(20.0), 0.6)),
            id="top-p",
        ),
        pytest.param(Sampling(temperature=20.0, top_k=1), lambda: only(distribution(), 1), id="best"),
        pytest.param(Sampling(temperature=0.001), lambda: only(distribution(), 1), id="cold"),
    ],
)
def test_tokens_come_as_often_as_they_should(sampling: Sampling, wanted: Any) -> None:
    shares = wanted()
    seen = first_tokens(sampling)
    assert sum(seen.values()) == DRAWS
    assert all(shares[token] > 0 for token in seen)
    # Five standard deviations of a count; there are at most 58 counts.
    for token, share in enumerate(shares):
        spread = math.sqrt(DRAWS * share * (1 - share))
        assert abs(seen[token] - DRAWS * share) <= 5 * spread + 1e-6, token


def test_rules_hold_for_samples() -> None:
    suppressed = list(range(4, 40))
    seen = first_tokens(Sampling(temperature=50.0), Constraints(suppressed=suppressed, min_length=1))
    assert not set(seen) & {*suppressed, *NEVER_PRODUCED}
    floor = DecodingOptions(
        n_best=20,
        sampling=Sampling(temperature=50.0, top_k=10),
        constraints=Constraints(min_length=6, no_repeat_ngram=1, repetition_penalty=1.5),
    )
    for samples in small_model("kmatrix").engine().translate([SOURCE] * 5, floor):
        for one in samples:
            assert len(one.token_log_probabilities) >= 6
            assert len(set(one.tokens)) == len(one.tokens)


def test_scores_are_the_models_whatever_the_temperature() -> None:
    model = small_model("kmatrix")
    options = DecodingOptions(n_best=5, sampling=Sampling(temperature=30.0, top_p=0.9, seed=4))
    (samples,) = model.engine().translate([SOURCE], options)
    assert len({tuple(one.tokens) for one in samples}) > 1
    assert [one.score for one in samples] == sorted((one.score for one in samples), reverse=True)
    scores = model.engine().score([SOURCE] * 5, [one.tokens for one in samples])
    for one, score in zip(samples, scores, strict=True):
        assert one.token_log_probabilities == score[: len(one.token_log_probabilities)]


def test_the_seed_decides() -> None:
    engine = small_model("kmatrix").engine()
    sources = sentences(20, 61)

    def sample(seed: int) -> list[list[int]]:
        options = DecodingOptions(sampling=Sampling(temperature=20.0, seed=seed))
        return [one.tokens for (one,) in engine.translate(sources, options)]

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_a_sentence_is_drawn_alike_alone_and_in_a_batch(isa: str) -> None:
    engine = small_model("kmatrix").engine(isa, 2)
    sources = [SOURCE] * 4 + sentences(12, 61)

    def sample(part: list[list[int]], first: int) -> list[tuple[list[int], float]]:
        sampling = Sampling(temperature=20.0, top_p=0.95, seed=7, first_sentence=first)
        found = engine.translate(part, DecodingOptions(n_best=3, sampling=sampling))
        return [(one.tokens, one.score) for samples in found for one in samples]

    whole = sample(sources, 0)
    assert sample(sources[:7], 0) + sample(sources[7:], 7) == whole
    alone = [sample([source], index) for index, source in enumerate(sources)]
    assert [one for samples in alone for one in samples] == whole
    assert len({tuple(tokens) for tokens, _ in whole[:12]}) > 1  # the same source, other numbers


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampling": Sampling(temperature=0.0)}, "temperature is 0.0.*wanted 0.001"),
        ({"sampling": Sampling(temperature=math.nan)}, "temperature is nan"),
        ({"sampling": Sampling(top_k=59)}, "top_k is 59, wanted 0 to 58"),
        ({"sampling": Sampling(top_p=0.0)}, "top_p is 0.0"),
        ({"sampling": Sampling(top_p=1.5)}, "top_p is 1.5"),
        ({"sampling": Sampling(), "beam_size": 2}, "beam_size is 2, wanted 1 with sampling"),
        ({"sampling": Sampling(), "n_best": 129}, "n_best is 129, wanted 1 to 128"),
    ],
)
def test_impossible_sampling(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(_engine.OptionError, match=message):
        small_model("kmatrix").engine().translate([SOURCE], DecodingOptions(**arguments))
