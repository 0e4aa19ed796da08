"""The training step's own operations against plain torch, in float64 and by gradcheck."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kserve.train.ops import Dropout, SmoothedCrossEntropy, dynamic_convolution, relu


def slow_dynamic_convolution(x: torch.Tensor, weights: torch.Tensor, left: int) -> torch.Tensor:
    """The definition, position by position."""
    batch, time, channels = x.shape
    heads, taps = weights.shape[2:]
    by_head = x.view(batch, time, heads, channels // heads)
    y = torch.zeros_like(by_head)
    for t in range(time):
        for j in range(taps):
            if 0 <= t + j - left < time:
                y[:, t] += weights[:, t, :, j, None] * by_head[:, t + j - left]
    return y.view_as(x)


@pytest.mark.parametrize(("time", "taps", "left"), [(1, 1, 0), (5, 3, 1), (4, 7, 6), (9, 5, 4), (3, 31, 15)])
def test_dynamic_convolution_equals_its_definition(time: int, taps: int, left: int) -> None:
    torch.manual_seed(time)
    x = torch.randn(2, time, 6, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, time, 3, taps, dtype=torch.float64, requires_grad=True)
    wanted = slow_dynamic_convolution(x, weights, left)
    torch.testing.assert_close(dynamic_convolution(x, weights, left), wanted)
    assert torch.autograd.gradcheck(lambda a, b: dynamic_convolution(a, b, left), (x, weights))


@pytest.mark.parametrize("rows", [1, 3, 700])
def test_cross_entropy_equals_torch(rows: int) -> None:
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    table = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 11, (rows,))
    totals = SmoothedCrossEntropy.apply(hidden, table, target, 0.1)
    scores = hidden @ table.t()
    wanted = functional.cross_entropy(scores, target, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(totals[0], wanted)
    torch.testing.assert_close(totals[1], functional.cross_entropy(scores, target, reduction="sum"))
    ours = torch.autograd.grad(totals[0] * 2, (hidden, table))
    for got, reference in zip(ours, torch.autograd.grad(wanted * 2, (hidden, table)), strict=True):
        torch.testing.assert_close(got, reference)


def test_cross_entropy_under_autocast_is_close_to_float32() -> None:
    torch.manual_seed(0)
    hidden, table = torch.randn(40, 64), torch.randn(50, 64) / 8
    target = torch.randint(0, 50, (40,))
    exact = SmoothedCrossEntropy.apply(hidden, table, target, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = SmoothedCrossEntropy.apply(hidden, table, target, 0.1)
    torch.testing.assert_close(rounded, exact, rtol=1e-2, atol=0)


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1000)
    y = Dropout(0.2)(x)
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.002)
    assert y.mean().item() == pytest.approx(1.0, abs=0.003)
    assert not torch.equal(y, Dropout(0.2)(x)), "two calls use different masks"


def test_dropout_does_nothing_in_evaluation() -> None:
    x = torch.randn(4, 4)
    assert torch.equal(Dropout(0.5).eval()(x), x)


def test_dropout_refuses_a_wrong_probability() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        Dropout(1.5)


def test_relu_and_its_gradient() -> None:
    x = torch.tensor([-1.5, 0.0, 2.0, -0.1, 3.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(relu(x), functional.relu(x))
    (gradient,) = torch.autograd.grad(relu(x).sum(), x)
    assert gradient.tolist() == [0, 0, 1, 0, 1]
