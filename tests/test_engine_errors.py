"""Every argument that the engine cannot use is an error that says what, got and wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reference_model import Sizes, Tensors, random_tensors
from small_models import small_model

from kserve import _engine

Damage = Callable[[Tensors], None]


def _remove(name: str) -> Damage:
    return lambda tensors: tensors.__delitem__(name)


def _put(name: str, change: Callable[[Any], Any]) -> Damage:
    return lambda tensors: tensors.__setitem__(name, change(tensors.get(name)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            _remove("decoder.1.key.kmatrix"), r"'decoder.1.key.kmatrix' is missing.*uint32", id="missing"
        ),
        pytest.param(
            _put("encoder.2.bias", lambda _: np.zeros(3, np.float32)),
            r"'encoder.2.bias' does not belong",
            id="extra",
        ),
        pytest.param(
            _put("decoder.norm.gain", lambda t: t.astype(np.float64)),
            r"'decoder.norm.gain' is of type float64, wanted float32",
            id="type",
        ),
        pytest.param(
            _put("decoder.norm.gain", lambda t: t.astype(">f4")),
            r"of type >f4, wanted float32",
            id="byte-order",
        ),
        pytest.param(
            _put("embedding.table", lambda t: t.view(np.uint8)), r"of type uint8, wanted int8", id="unsigned"
        ),
        pytest.param(
            _put("decoder.0.ffn_in.bias", lambda t: t[:-1].copy()),
            r"'decoder.0.ffn_in.bias' has shape \(63,\), wanted \(64,\)",
            id="shape",
        ),
        pytest.param(
            _put("embedding.table", lambda t: t[:, :16]), r"'embedding.table' is not contiguous", id="strides"
        ),
        pytest.param(
            _put("embedding.scale", lambda t: t.tolist()),
            r"'embedding.scale' is a list, wanted a NumPy",
            id="list",
        ),
        pytest.param(
            _put(
                "embedding.scale", lambda t: np.frombuffer(b"\0" + t.tobytes(), np.int8)[1:].view(np.float32)
            ),
            r"'embedding.scale' does not lie at a multiple of its number size, 4 bytes",
            id="misaligned",
        ),
    ],
)
def test_tensor_that_does_not_fit(damage: Damage, message: str) -> None:
    sizes = Sizes()
    tensors = random_tensors(sizes, 1)
    damage(tensors)
    with pytest.raises(_engine.EngineError, match=message):
        _engine.Engine(sizes.architecture(), tensors)


def test_tensor_name_must_be_text() -> None:
    sizes = Sizes()
    tensors: dict[Any, Any] = {**random_tensors(sizes, 1), 7: np.zeros(1, np.float32)}
    with pytest.raises(_engine.EngineError, match="key is 7"):
        _engine.Engine(sizes.architecture(), tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"vocab_size": 0}, "vocab_size is 0, wanted at least 1", id="no-vocabulary"),
        pytest.param({"vocab_size": 4}, "vocab_size is 4, wanted 5 to", id="only-reserved-ids"),
        pytest.param({"d_model": -32}, "d_model is -32", id="negative-size"),
        pytest.param({"heads": 5}, "d_model is 32, wanted an even multiple of heads, 5", id="heads"),
        pytest.param({"encoder_kernels": (3, 4)}, "encoder_kernels has 4, wanted odd", id="even-kernel"),
        pytest.param({"decoder_kernels": ()}, "number of decoder_kernels is 0", id="no-layers"),
        pytest.param({"max_positions": 1 << 40}, "max_positions is 1099511627776", id="positions"),
    ],
)
def test_architecture_out_of_range(change: dict[str, Any], message: str) -> None:
    sizes = Sizes()
    tensors = random_tensors(sizes, 1)
    with pytest.raises(_engine.EngineError, match=message):
        _engine.Engine(replace(sizes, **change).architecture(), tensors)


@pytest.mark.parametrize(
    ("site", "spec", "message"),
    [
        pytest.param("query", ("sparse",), "linear.query.kind is 'sparse'", id="kind"),
        pytest.param(
            "query", ("kmatrix", 1, 3), "linear.query.expansion is 3, wanted a power of two", id="expansion"
        ),
        pytest.param("query", ("kmatrix", 99), "linear.query.width is 99, wanted 1 to 16", id="width"),
        pytest.param("gate", ("dense",), "unknown site 'gate'", id="unknown-site"),
        pytest.param("query", None, "no site 'query'", id="missing-site"),
    ],
)
def test_linear_that_does_not_fit(site: str, spec: tuple[Any, ...] | None, message: str) -> None:
    sizes = Sizes()
    good = sizes.architecture()
    linear = dict(good.linear)
    linear.pop(site, None)
    if spec is not None:
        linear[site] = _engine.LinearSpec(*spec)
    architecture = _engine.Architecture(
        vocab_size=sizes.vocab_size,
        d_model=sizes.d_model,
        d_ffn=sizes.d_ffn,
        heads=sizes.heads,
        encoder_kernels=list(sizes.encoder_kernels),
        decoder_kernels=list(sizes.decoder_kernels),
        glu=sizes.glu,
        max_positions=sizes.max_positions,
        linear=linear,
    )
    with pytest.raises(_engine.EngineError, match=message):
        _engine.Engine(architecture, random_tensors(sizes, 1))


def test_unknown_isa_lists_the_valid_ones() -> None:
    with pytest.raises(_engine.EngineError, match="scalar"):
        small_model("dense").engine("avx9000")


@pytest.mark.parametrize("threads", [0, -1, 1000])
def test_threads_out_of_range(threads: int) -> None:
    with pytest.raises(_engine.EngineError, match=f"threads is {threads}, wanted 1 to 256"):
        small_model("dense").engine(threads=threads)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        pytest.param([[5, 2], []], "source 1 is empty", id="empty"),
        pytest.param([[5, 61, 2]], "source 0 has id 61 at place 1, wanted 0 to 60", id="beyond"),
        pytest.param([[5, -1, 2]], "source 0 has id -1", id="negative"),
        pytest.param([[5] * 48 + [2]], "source 0 has 49 tokens, but the model takes at most 48", id="long"),
    ],
)
def test_source_that_cannot_be_translated(sources: list[list[int]], message: str) -> None:
    engine = small_model("dense").engine()
    with pytest.raises(_engine.EngineError, match=message):
        engine.translate(sources, _engine.DecodingOptions())
    if len(sources) == 1:
        with pytest.raises(_engine.EngineError, match=message):
            engine.encode(sources[0])


@pytest.mark.parametrize("sources", [[5, 2], [["5"]], [[1.5]], "text", [[1 << 80]]])
def test_source_of_a_wrong_type(sources: Any) -> None:
    with pytest.raises(TypeError):
        small_model("dense").engine().translate(sources, _engine.DecodingOptions())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0, wanted 1 to 29"),
        ({"beam_size": 30}, "beam_size is 30, wanted 1 to 29"),
        ({"beam_size": 2, "n_best": 3}, "n_best is 3, wanted 1 to 2"),
        ({"n_best": 0}, "n_best is 0"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
        ({"length_penalty": -1.0}, "length_penalty is -1"),
        ({"max_length": -1}, "max_length is -1"),
        ({"max_length_ratio": math.inf}, "max_length_ratio is inf"),
        ({"max_length_ratio": 0.0, "max_length_extra": 0}, "are all 0"),
        ({"max_batch_tokens": 0}, "max_batch_tokens is 0"),
    ],
)
def test_option_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(_engine.EngineError, match=message):
        small_model("dense").engine().translate([[5, 2]], _engine.DecodingOptions(**options))


def test_engine_error_is_a_value_error() -> None:
    assert issubclass(_engine.EngineError, ValueError)


@pytest.mark.parametrize("beam", [1, 3])
def test_weights_that_are_not_finite_are_an_error_and_no_translation(beam: int, isa: str) -> None:
    sizes = Sizes()
    tensors = random_tensors(sizes, 1)
    tensors["decoder.norm.bias"][3] = np.nan
    engine = _engine.Engine(sizes.architecture(), tensors, isa=isa, threads=2)
    with pytest.raises(_engine.EngineError, match="not finite at target position 0"):
        engine.translate([[5, 2], [7, 8, 2]], _engine.DecodingOptions(beam_size=beam))
