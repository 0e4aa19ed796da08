"""Properties of the torch model on which the engine and the training rely."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import DENSE, KMATRIX, MIXED, tiny_model, tiny_recipe
from torch import Tensor

from kserve.architecture import SITES
from kserve.kmatrix import KLinear
from kserve.tokenizer import BEGIN, END, PADDING
from kserve.train.model import NEVER_PRODUCED, Architecture, DynamicConvModel, LinearSpec
from kserve.train.ops import dynamic_convolution

# Float32 rounding of sums over at most 80 numbers near 1, through a handful of layers.
TOLERANCE = 2e-5
SOURCES = [[5, 17, 40, 2], [61, 8, 8, 93, 22, 11, 70, 2], [9, 2]]


@pytest.fixture(scope="module", params=["kmatrix", "dense", "mixed", "no-glu"])
def model(request: pytest.FixtureRequest) -> DynamicConvModel:
    recipes = {
        "kmatrix": tiny_recipe(KMATRIX),
        "dense": tiny_recipe(DENSE),
        "mixed": tiny_recipe(KMATRIX, MIXED),
        "no-glu": tiny_recipe(KMATRIX, glu=False),
    }
    return tiny_model(recipes[request.param])


def padded(sources: list[list[int]], length: int = 0) -> Tensor:
    length = max(length, *(len(ids) for ids in sources))
    return torch.tensor([ids + [PADDING] * (length - len(ids)) for ids in sources])


@torch.inference_mode()
def test_incremental_decoding_equals_the_full_forward(model: DynamicConvModel) -> None:
    target = torch.tensor(
        [[BEGIN, 12, 7, 99, 31, 50, 7, 64], [BEGIN, 5, 5, 5, 80, 44, 4, 13], [BEGIN, 90, 9, 8, 7, 6, 5, 4]]
    )
    source = model.prepare(padded(SOURCES))
    full = model.decode(source, target)
    histories = model.start_histories(len(target))
    for position in range(target.shape[1]):
        step = model.step(source, target[:, position], position, histories)
        torch.testing.assert_close(step, full[:, position], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_padding_and_neighbours_change_nothing(model: DynamicConvModel) -> None:
    together = model.encode(padded(SOURCES, length=13))
    target = torch.tensor([[BEGIN, 12, 7, 99]] * len(SOURCES))
    hidden = model.decode(model.prepare(padded(SOURCES, length=13)), target)
    for row, ids in enumerate(SOURCES):
        alone = torch.tensor([ids])
        torch.testing.assert_close(together[row, : len(ids)], model.encode(alone)[0], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(
            hidden[row], model.decode(model.prepare(alone), target[:1])[0], rtol=0, atol=TOLERANCE
        )


@torch.inference_mode()
def test_decoder_never_looks_ahead(model: DynamicConvModel) -> None:
    source = model.prepare(padded(SOURCES[:1]))
    target = torch.tensor([[BEGIN, 12, 7, 99, 31, 50]])
    changed = target.clone()
    changed[0, 3:] = torch.tensor([77, 6, 18])
    before, after = model.decode(source, target)[0], model.decode(source, changed)[0]
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=TOLERANCE)
    assert (before[3:] - after[3:]).abs().amax(1).min() > 1e-3


@torch.inference_mode()
def test_encoder_looks_both_ways_and_decoder_at_the_source(model: DynamicConvModel) -> None:
    ids = torch.tensor([[5, 17, 40, 61, 2]])
    changed = ids.clone()
    changed[0, 2] = 88
    difference = (model.encode(ids) - model.encode(changed))[0].abs().amax(1)
    assert (difference > 1e-3).all(), "kernels 3 and 5 reach two positions to either side at least"
    target = torch.tensor([[BEGIN, 12]])
    hidden = [model.decode(model.prepare(source), target) for source in (ids, changed)]
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3


def test_greedy_keeps_its_limits_and_never_produces_forbidden_ids(model: DynamicConvModel) -> None:
    outputs = model.greedy(SOURCES, max_length_ratio=1.5, max_length_extra=3)
    assert [
        len(ids) <= -(-3 * len(source) // 2) + 3 for source, ids in zip(SOURCES, outputs, strict=True)
    ] == [True] * 3
    assert not {*NEVER_PRODUCED, END} & {token for ids in outputs for token in ids}
    assert outputs == [model.greedy([source], 1.5, 3)[0] for source in SOURCES]


@torch.inference_mode()
def test_greedy_is_the_arg_max_of_the_full_forward(model: DynamicConvModel) -> None:
    ids = model.greedy(SOURCES[:1])[0]
    target = torch.tensor([[BEGIN, *ids]])
    scores = model.decode(model.prepare(padded(SOURCES[:1])), target)[0] @ model.embedding.weight.T
    scores[:, list(NEVER_PRODUCED)] = -torch.inf
    assert scores.argmax(1).tolist()[: len(ids)] == ids


def test_dense_twin_differs_in_the_linear_weights_only() -> None:
    kmatrix, dense = (dict(tiny_model(tiny_recipe(kind)).named_parameters()) for kind in (KMATRIX, DENSE))
    assert {name.replace(".twiddle", ".weight") for name in kmatrix} == set(dense)
    same = [name for name in kmatrix if not name.endswith(".twiddle")]
    assert all(kmatrix[name].shape == dense[name].shape for name in same)
    layers = [layer for layer in tiny_model(tiny_recipe(KMATRIX)).modules() if isinstance(layer, KLinear)]
    assert len(layers) == 2 * 5 + 2 * 9
    assert not any(isinstance(layer, torch.nn.Linear) for layer in tiny_model(tiny_recipe(KMATRIX)).modules())


@pytest.mark.parametrize("left", [0, 1, 2, 4], ids=lambda left: f"left{left}")
@pytest.mark.parametrize("time", [1, 3, 9], ids=lambda time: f"t{time}")
def test_dynamic_convolution_equals_its_formula(time: int, left: int) -> None:
    torch.manual_seed(time)
    taps, heads, head_dim = 5, 2, 3
    x = torch.randn(2, time, heads * head_dim, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, time, heads, taps, dtype=torch.float64, requires_grad=True)
    expected = torch.zeros(2, time, heads * head_dim, dtype=torch.float64)
    for t in range(time):
        for tap in range(taps):
            position = t + tap - left
            if 0 <= position < time:
                weight = kernels[:, t, :, tap].detach().repeat_interleave(head_dim, dim=1)
                expected[:, t] += weight * x[:, position].detach()
    torch.testing.assert_close(dynamic_convolution(x, kernels, left), expected)
    assert torch.autograd.gradcheck(lambda a, b: dynamic_convolution(a, b, left), (x, kernels))


@torch.inference_mode()
def test_kernels_are_softmax_normalised_over_taps(model: DynamicConvModel) -> None:
    layer: Any = model.encoder.layers[1]
    _, kernels = layer._convolution_inputs(torch.randn(2, 6, 40))
    assert kernels.shape == (2, 6, 4, 5)
    torch.testing.assert_close(kernels.sum(-1), torch.ones(2, 6, 4))


def test_loss_without_smoothing_is_the_negative_log_likelihood(model: DynamicConvModel) -> None:
    source, target_in = padded(SOURCES[:2]), torch.tensor([[BEGIN, 12, 7], [BEGIN, 9, PADDING]])
    target_out = torch.tensor([[12, 7, END], [9, END, PADDING]])
    total, nll = model.loss(source, target_in, target_out, 0.0).tolist()
    scores = model.decode(model.prepare(source), target_in) @ model.embedding.weight.T
    wanted = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), target_out.flatten(), ignore_index=PADDING, reduction="sum"
    )
    assert total == pytest.approx(wanted.item(), rel=1e-5)
    assert nll == pytest.approx(wanted.item(), rel=1e-5)


def test_architecture_survives_json_and_refuses_nonsense() -> None:
    arch = tiny_recipe(KMATRIX, MIXED).model.architecture(120)
    assert Architecture.from_dict(arch.to_dict()) == arch
    with pytest.raises(ValueError, match="divisible by heads"):
        small_architecture(d_model=10)
    with pytest.raises(ValueError, match="odd"):
        small_architecture(encoder_kernels=(4,))
    with pytest.raises(ValueError, match="sites"):
        small_architecture(linear={})
    with pytest.raises(ValueError, match="unknown"):
        LinearSpec("sparse").make(4, 4)


def small_architecture(**changes: Any) -> Architecture:
    sizes: dict[str, Any] = {"vocab_size": 10, "d_model": 8, "d_ffn": 8, "heads": 4}
    kernels = {"encoder_kernels": (3,), "decoder_kernels": (3,)}
    return Architecture(**{**sizes, **kernels, "linear": dict.fromkeys(SITES, LinearSpec()), **changes})
