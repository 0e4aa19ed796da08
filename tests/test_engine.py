"""The engine against a float64 model of its own numbers, and what search promises."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from reference_model import BEGIN, END, NEVER_PRODUCED, ReferenceModel, Sizes, random_tensors
from small_models import NAMES, reference_translations, sentences, small_model

from kserve import _engine

# The states are of size 1. A state is the sum of a few hundred float32 products a layer, so some tens of the
# rounding unit 6e-8 are expected; the worst seen is 1.5e-6.
STATE_BOUND = 100 * 2.0**-24
# The log-sum-exp adds up logits of hidden states in 8 bits.
LOG_PROBABILITY_BOUND = 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_encoder_states_match_the_reference(name: str, isa: str) -> None:
    model = small_model(name)
    engine = model.engine(isa)
    for source in sentences(13, model.sizes.vocab_size):
        states = engine.encode(source)
        assert states.dtype == np.float32
        np.testing.assert_allclose(states, model.reference.encode(source), rtol=0, atol=STATE_BOUND)


def test_layer_forms_tell_how_each_shape_runs(isa: str) -> None:
    model = small_model("mixed")
    forms = model.engine(isa).layer_forms()
    encoder, decoder = len(model.sizes.encoder_kernels), len(model.sizes.decoder_kernels)
    assert sum(form.layers for form in forms) == 5 * encoder + 9 * decoder
    found = {site: form for form in forms for site in form.sites}
    query, wide, deep = (found[f"decoder.{site}"] for site in ("query", "ffn_out", "ffn_in"))
    assert (query.kind, query.precision, query.passes) == ("dense", "float16", [])
    assert (query.inputs, query.outputs, query.layers) == (48, 48, decoder)
    # 80 -> 48 by squares for 64 numbers, each expanded to 128: 8 chunks, one pass.
    assert (wide.kind, wide.square, wide.grid) == ("kmatrix", 128, (1, 2))
    together = 2 if isa in ("avx512", "avx512vnni", "amx") else 1
    assert [(one.radix, one.rows_together) for one in wide.passes] == [(8, together)]
    # Of width 2: a pass for each pair of butterflies.
    assert (deep.width, deep.grid, [one.radix for one in deep.passes]) == (2, (2, 1), [4, 4])


@pytest.mark.parametrize("beam", [1, 2, 5])
@pytest.mark.parametrize("name", NAMES)
def test_search_matches_the_reference(name: str, beam: int, isa: str) -> None:
    model = small_model(name)
    options = _engine.DecodingOptions(beam_size=beam, n_best=beam, length_penalty=0.8)
    results = model.engine(isa).translate(sentences(13, model.sizes.vocab_size), options)
    different = 0
    for hypotheses, guesses in zip(results, reference_translations(name, beam), strict=True):
        assert len(hypotheses) == len(guesses[:beam])
        different += [tuple(h.tokens) for h in hypotheses] != [guess.tokens for guess in guesses[:beam]]
        for hypothesis, guess in zip(hypotheses, guesses, strict=False):
            assert hypothesis.score == pytest.approx(guess.score(0.8), abs=LOG_PROBABILITY_BOUND)
            if tuple(hypothesis.tokens) != guess.tokens:
                continue
            assert hypothesis.truncated == guess.truncated
            assert hypothesis.token_log_probabilities == pytest.approx(
                guess.log_probabilities, abs=LOG_PROBABILITY_BOUND
            )
    assert different <= (beam > 1), "only where two hypotheses of a beam score alike may another one be found"


def test_reference_covers_ended_and_truncated() -> None:
    guesses = [best for name in NAMES for best, *_ in reference_translations(name, 1)]
    assert any(guess.truncated for guess in guesses)
    assert any(len(guess.tokens) > 2 and not guess.truncated for guess in guesses)
    assert len({guess.tokens for guess in guesses}) > 20


def test_isa_forced_is_the_one_running(isa: str) -> None:
    assert small_model("dense").engine(isa).isa == isa


def test_isa_chosen_is_the_first_available() -> None:
    assert small_model("dense").engine().isa == _engine.available_isas()[0]


def test_wide_isas_agree_bit_for_bit() -> None:
    wide = [isa for isa in _engine.available_isas() if isa != "scalar"]
    if len(wide) < 2:
        pytest.skip(f"needs two paths with fused multiply-add; this processor has {wide}")
    model = small_model("kmatrix")
    sources = sentences(13, model.sizes.vocab_size)
    engines = [model.engine(isa) for isa in wide]
    assert len({engine.encode(sources[-1]).tobytes() for engine in engines}) == 1
    options = _engine.DecodingOptions(beam_size=3, n_best=3)
    found = [
        [(h.tokens, h.score) for hypotheses in engine.translate(sources, options) for h in hypotheses]
        for engine in engines
    ]
    assert all(result == found[0] for result in found)


def test_n_best_is_sorted_and_its_scores_add_up() -> None:
    model = small_model("kmatrix")
    options = _engine.DecodingOptions(beam_size=4, n_best=4, length_penalty=0.6)
    sources = sentences(13, model.sizes.vocab_size)
    for source, hypotheses in zip(sources, model.engine().translate(sources, options), strict=True):
        scores = [h.score for h in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({(tuple(h.tokens), h.truncated) for h in hypotheses}) == 4
        states = model.reference.encode(source)
        for h in hypotheses[:2]:
            produced = h.tokens if h.truncated else [*h.tokens, END]
            assert len(produced) == len(h.token_log_probabilities)
            assert h.log_probability == pytest.approx(sum(h.token_log_probabilities), rel=1e-12)
            assert h.score == pytest.approx(h.log_probability / len(produced) ** 0.6, rel=1e-12)
            for place, token in enumerate(produced):
                expected = model.reference.log_probabilities(states, [BEGIN, *h.tokens[:place]])[token]
                assert h.token_log_probabilities[place] == pytest.approx(expected, abs=LOG_PROBABILITY_BOUND)


@pytest.mark.parametrize("beam", [1, 3])
def test_max_length_truncates_and_says_so(beam: int) -> None:
    model = small_model("dense")
    source = sentences(13, model.sizes.vocab_size)[-1]
    options = _engine.DecodingOptions(beam_size=beam, n_best=beam, max_length=3)
    for hypothesis in model.engine().translate([source], options)[0]:
        assert len(hypothesis.token_log_probabilities) <= 3
        assert hypothesis.truncated == (len(hypothesis.tokens) == 3)


def test_length_cap_is_within_the_positions() -> None:
    model = small_model("dense")
    source = sentences(1, model.sizes.vocab_size)[0]
    options = _engine.DecodingOptions(max_length=1000)
    hypothesis = model.engine().translate([source], options)[0][0]
    assert hypothesis.truncated
    assert len(hypothesis.tokens) == model.sizes.max_positions - 1


def test_longest_source_is_accepted() -> None:
    model = small_model("kmatrix")
    source = [7] * (model.sizes.max_positions - 1) + [END]
    assert model.engine().encode(source).shape == (model.sizes.max_positions, model.sizes.d_model)
    assert len(model.engine().translate([source], _engine.DecodingOptions())) == 1


def test_no_sources_give_no_translations() -> None:
    assert small_model("dense").engine().translate([], _engine.DecodingOptions()) == []


@pytest.mark.parametrize("beam", [1, 4])
def test_reserved_ids_are_never_produced(beam: int) -> None:
    model = small_model("kmatrix")
    tensors = dict(model.tensors)
    scale = tensors["embedding.scale"].copy()
    scale[list(NEVER_PRODUCED)] *= 8  # now they would win almost everywhere
    tensors["embedding.scale"] = scale
    engine = _engine.Engine(model.sizes.architecture(), tensors)
    options = _engine.DecodingOptions(beam_size=beam, n_best=beam)
    results = engine.translate(sentences(13, model.sizes.vocab_size), options)
    produced = {token for hypotheses in results for h in hypotheses for token in h.tokens}
    assert produced
    assert produced.isdisjoint({*NEVER_PRODUCED, END})


@pytest.mark.parametrize("beam", [1, 4])
def test_ties_go_to_the_lower_id(beam: int) -> None:
    sizes = replace(small_model("kmatrix").sizes, vocab_size=64)
    tensors = random_tensors(sizes, 3)
    # Every token from 4 on has a twin, 30 ids higher, with the same row and so the same logit.
    for name in ("embedding.table", "embedding.scale"):
        tensors[name][34:64] = tensors[name][4:34]
    options = _engine.DecodingOptions(beam_size=beam)
    for hypotheses in _engine.Engine(sizes.architecture(), tensors).translate(sentences(13, 34), options):
        assert all(token < 34 for token in hypotheses[0].tokens)


def test_weights_are_used_where_they_lie_and_held() -> None:
    sizes = Sizes()
    tensors = random_tensors(sizes, 1)
    held = weakref.ref(tensors["encoder.1.ffn_out.bias"])
    engine = _engine.Engine(sizes.architecture(), tensors)
    source = sentences(3, sizes.vocab_size)[2]
    tensors["encoder.1.ffn_out.bias"] += np.linspace(-1, 1, sizes.d_model, dtype=np.float32)
    want = ReferenceModel(sizes, tensors).encode(source)
    np.testing.assert_allclose(engine.encode(source), want, rtol=0, atol=STATE_BOUND)
    tensors.clear()
    gc.collect()
    assert held() is not None
    engine.encode(source)
    del engine
    gc.collect()
    assert held() is None


def test_workspace_is_allocated_once() -> None:
    model = small_model("kmatrix")
    engine = model.engine()
    assert engine.workspace_bytes == 0
    sources = sentences(13, model.sizes.vocab_size)
    engine.translate(sources, _engine.DecodingOptions(beam_size=3))
    size = engine.workspace_bytes
    assert 0 < size < 4_000_000
    for source in sources:
        engine.translate([source], _engine.DecodingOptions(beam_size=3))
    assert engine.workspace_bytes == size


def test_architecture_and_options_are_readable() -> None:
    architecture = small_model("mixed").sizes.architecture()
    assert architecture.d_model == 48
    assert architecture.decoder_kernels == [3, 7]
    assert (architecture.linear["ffn_in"].width, architecture.linear["query"].kind) == (2, "dense")
    options = _engine.DecodingOptions(beam_size=3)
    assert (options.beam_size, options.n_best, options.max_length_ratio) == (3, 1, 2.0)


@pytest.mark.parametrize("beam", [1, 3])
def test_suppressing_the_end_token_forces_the_length(isa: str, beam: int) -> None:
    engine = small_model("kmatrix").engine(isa)
    sources = sentences(6, small_model("kmatrix").sizes.vocab_size)
    no_end = _engine.Constraints(suppressed=[2])
    forced = _engine.DecodingOptions(beam_size=beam, max_length=9, constraints=no_end)
    found = [best[0] for best in engine.translate(sources, forced)]
    assert [(len(best.tokens), best.truncated) for best in found] == [(9, True)] * 6
