"""Properties of the torch model on which the engine and the training rely."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import DENSE, KMATRIX, MIXED, tiny_model, tiny_recipe
from torch import Tensor

from kserve.architecture import SITES
from kserve.kmatrix import KLinear
from kserve.tokenizer import BEGIN, END, PADDING
from kserve.train.batches import make_batch
from kserve.train.data import Corpora
from kserve.train.model import NEVER_PRODUCED, Batch, DynamicConvModel
from kserve.train.spec import Architecture, LinearSpec

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


def batch_of(pairs: list[tuple[list[int], list[int]]]) -> Batch:
    """Source ids and target ids, each ending in 2."""
    flat = [[i for ids in side for i in ids] for side in zip(*pairs, strict=True)]
    offsets = [np.cumsum([0, *map(len, side)]).astype(np.int64) for side in zip(*pairs, strict=True)]
    corpora = Corpora(np.array(flat[0], np.int32), offsets[0], np.array(flat[1], np.int32), offsets[1])
    return make_batch(corpora, np.arange(len(pairs)), torch.device("cpu"))


def test_loss_without_smoothing_is_the_negative_log_likelihood(model: DynamicConvModel) -> None:
    targets = [[12, 7, END], [9, END]]
    loss, totals = model(batch_of(list(zip(SOURCES[:2], targets, strict=True))), smoothing=0.0, weight=0.5)
    wanted = 0.0
    for source, target in zip(SOURCES[:2], targets, strict=True):
        hidden = model.decode(model.prepare(padded([source])), torch.tensor([[BEGIN, *target[:-1]]]))[0]
        scores = hidden @ model.embedding.weight.T
        wanted += torch.nn.functional.cross_entropy(scores, torch.tensor(target), reduction="sum").item()
    assert loss.item() == pytest.approx(0.5 * wanted, rel=1e-5)
    assert totals.tolist() == pytest.approx([wanted, wanted], rel=1e-5)


def test_bfloat16_is_near_float32(model: DynamicConvModel) -> None:
    """Loss and gradients of the whole model, K-matrices multiplied out."""
    batch = batch_of([(SOURCES[0], [12, 7, END]), (SOURCES[1], [9, 33, 50, 8, END])])
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model.dtype = dtype
        loss, _ = model(batch, smoothing=0.1, weight=0.1)
        results.append(
            (loss, torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
        )
    model.dtype = torch.float32
    (loss, grads), (low_loss, low_grads) = results
    assert low_loss.item() == pytest.approx(loss.item(), rel=1e-2)
    assert (low_grads - grads).norm() < 0.03 * grads.norm()


def test_every_part_runs_in_plain_torch_alike(model: DynamicConvModel) -> None:
    """float64 goes through torch alone, float32 through the extension's kernels."""
    batch = batch_of([(SOURCES[0], [12, 7, END]), (SOURCES[1], [9, 33, 50, 8, END])])
    exact = copy.deepcopy(model).double()
    exact.dtype = torch.float64
    results = []
    for one in (model, exact):
        loss, _ = one(batch, smoothing=0.1, weight=0.1)
        results.append(
            torch.cat([g.double().flatten() for g in torch.autograd.grad(loss, list(one.parameters()))])
        )
    assert (results[0] - results[1]).norm() < 1e-5 * results[1].norm()


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
