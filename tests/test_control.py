"""A call that ends before its time: cancelled, too late, stopped by its own callback, or not a number."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from reference_model import Sizes, random_tensors
from small_models import sentences, small_model

from kserve import _engine
from kserve._engine import BeamRules, CancelToken, Constraints, Control, DecodingOptions, Sampling

LONG = Sizes(d_model=128, d_ffn=256, max_positions=2000)  # a step of ten thousands of cycles, many of them


def long_engine(threads: int = 1) -> _engine.Engine:
    """Decodes for seconds when it may not end."""
    return _engine.Engine(LONG.architecture(), random_tensors(LONG, 1), isa="scalar", threads=threads)


def endless(control: Control, beam: int = 4) -> DecodingOptions:
    return DecodingOptions(
        beam_size=beam, max_length=1900, constraints=Constraints(min_length=1900), control=control
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_cancelled_from_another_thread_within_a_step(threads: int) -> None:
    engine, token = long_engine(threads), CancelToken()
    cancelled_at: list[float] = []

    def cancel() -> None:
        time.sleep(0.1)
        cancelled_at.append(time.perf_counter())
        token.cancel()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(_engine.Cancelled, match="cancelled"):
        engine.translate(sentences(4, LONG.vocab_size), endless(Control(cancel=token)))
    ended = time.perf_counter()
    canceller.join()
    assert token.cancelled
    # A step is under a millisecond; the rest is room for a busy machine. Without a cancel it takes seconds.
    assert ended - cancelled_at[0] < 2.0


def test_a_call_with_a_cancelled_token_does_not_begin() -> None:
    token = CancelToken()
    token.cancel()
    control = Control(cancel=token)
    with pytest.raises(_engine.Cancelled):
        small_model("dense").engine().translate([[5, 2]], DecodingOptions(control=control))
    with pytest.raises(_engine.Cancelled):
        small_model("dense").engine().score([[5, 2]], [[7]], token)


@pytest.mark.parametrize("beam", [1, 4])
def test_the_deadline_gives_what_there_is(beam: int) -> None:
    engine = long_engine()
    sources = sentences(3, LONG.vocab_size)
    begun = time.perf_counter()
    found = engine.translate(sources, endless(Control(deadline=0.1), beam))
    assert 0.1 <= time.perf_counter() - begun < 2.0
    whole = engine.translate(
        sources, DecodingOptions(beam_size=1, max_length=40, constraints=Constraints(min_length=40))
    )
    for (one, *_), (start,) in zip(found, whole, strict=True):
        assert one.timed_out
        assert one.truncated
        assert 0 < len(one.tokens) < 1900
        assert len(one.tokens) == len(one.token_log_probabilities)
        if beam == 1:
            shared = min(len(one.tokens), len(start.tokens))
            assert one.tokens[:shared] == start.tokens[:shared]


def test_sentences_that_the_deadline_kept_from_beginning_are_empty() -> None:
    options = endless(Control(deadline=1e-9))
    for hypotheses in long_engine().translate(sentences(3, LONG.vocab_size), options):
        (one,) = hypotheses
        assert (one.tokens, one.score, one.log_probability) == ([], 0.0, 0.0)
        assert one.timed_out
        assert one.truncated


def test_sentences_that_ended_before_the_deadline_are_whole() -> None:
    model = small_model("kmatrix")
    sources = sentences(9, model.sizes.vocab_size)
    plain, timed = (
        model.engine().translate(sources, DecodingOptions(beam_size=3, control=control))
        for control in (Control(), Control(deadline=60.0))
    )
    assert [(one.tokens, one.score, one.timed_out) for (one,) in timed] == [
        (one.tokens, one.score, False) for (one,) in plain
    ]


@pytest.mark.parametrize("sampling", [None, Sampling(temperature=20.0, seed=3)], ids=["greedy", "sampling"])
def test_tokens_are_told_as_they_come(sampling: Sampling | None) -> None:
    model = small_model("kmatrix")
    sources = sentences(20, model.sizes.vocab_size)
    told: dict[int, list[int]] = {index: [] for index in range(20)}

    def tell(sentence: int, token: int) -> None:
        told[sentence].append(token)

    options = DecodingOptions(sampling=sampling, control=Control(on_token=tell))
    found = model.engine(threads=2).translate(sources, options, [[9]] + [[]] * 19)
    assert list(told.values()) == [one.tokens for (one,) in found]
    assert told[0][0] == 9


@pytest.mark.parametrize("threads", [1, 2])
def test_an_exception_of_the_callback_ends_the_call(threads: int) -> None:
    calls = 0

    def fail(sentence: int, token: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyError("enough")

    begun = time.perf_counter()
    with pytest.raises(KeyError, match="enough"):
        long_engine(threads).translate(sentences(4, LONG.vocab_size), endless(Control(on_token=fail), 1))
    assert calls < 100
    assert time.perf_counter() - begun < 2.0


def test_a_callback_may_cancel_and_may_translate() -> None:
    model = small_model("kmatrix")
    engine, token = model.engine(), CancelToken()
    inner: list[list[int]] = []

    def tell(sentence: int, token_id: int) -> None:
        inner.append(engine.translate([[5, 2]], DecodingOptions())[0][0].tokens)
        token.cancel()

    with pytest.raises(_engine.Cancelled):
        engine.translate([[7, 8, 2]], DecodingOptions(control=Control(cancel=token, on_token=tell)))
    assert inner == [engine.translate([[5, 2]], DecodingOptions())[0][0].tokens]


def test_impossible_control() -> None:
    engine = small_model("dense").engine()
    for deadline in (-1.0, math.nan, math.inf):
        with pytest.raises(_engine.OptionError, match=f"deadline is {deadline}"):
            engine.translate([[5, 2]], DecodingOptions(control=Control(deadline=deadline)))
    options = DecodingOptions(beam_size=2, control=Control(on_token=print))
    with pytest.raises(_engine.OptionError, match="on_token with 2 hypotheses at a time, wanted 1"):
        engine.translate([[5, 2]], options)


@pytest.mark.parametrize("place", ["decoder.norm.bias", "encoder.0.conv_in.bias", "decoder.1.attn_out.bias"])
@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(beam_size=3, attention=True, rules=BeamRules(coverage_penalty=0.5)),
        DecodingOptions(sampling=Sampling()),
        DecodingOptions(sampling=Sampling(top_k=5)),
        DecodingOptions(constraints=Constraints(suppressed=[7], repetition_penalty=1.5, min_length=3)),
    ],
    ids=["beam", "sampling", "top-k", "rules"],
)
def test_not_a_number_is_an_error_that_names_the_sentence(place: str, options: DecodingOptions) -> None:
    sizes = Sizes()
    tensors = random_tensors(sizes, 1)
    tensors[place][3] = np.nan
    engine = _engine.Engine(sizes.architecture(), tensors)
    message = "not finite at target position 0 of sentence 0; .*check the bundle"
    with pytest.raises(_engine.EngineError, match=message):
        engine.translate([[5, 2]], options)
    with pytest.raises(_engine.EngineError, match=message):
        engine.translate([[5, 2]], options, [[9]])
    with pytest.raises(_engine.EngineError, match=message):
        engine.score([[5, 2]], [[9]])
