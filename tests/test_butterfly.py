"""The extension's training kernel: every instruction set against float64 torch, forward and backward."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kserve import _engine
from kserve.kmatrix import KLinear
from kserve.kmatrix.factors import butterfly_multiply

# (in, out, width, expansion, rows): one tile and part of one, grids, sizes that are no powers of two.
SHAPES = [
    (256, 256, 1, 1, 100),
    (512, 1024, 1, 1, 37),
    (1024, 512, 2, 1, 5),
    (124, 5, 1, 2, 33),
    (1, 3, 1, 1, 1),
    (129, 300, 1, 1, 64),
    (2, 2, 3, 1, 31),
    (32, 32, 1, 4, 32),
]


def relative(got: NDArray[np.float32], wanted: torch.Tensor | None) -> float:
    """Largest error over the largest value."""
    assert wanted is not None
    reference = wanted.detach().numpy()
    return float(np.abs(got - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape)))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", _engine.available_isas())
def test_kernel_equals_float64(isa: str, threads: int, shape: tuple[int, ...]) -> None:
    inputs, outputs, width, expansion, rows = shape
    torch.manual_seed(inputs)
    layer = KLinear(inputs, outputs, width=width, expansion=expansion)
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    exact = KLinear(inputs, outputs, width=width, expansion=expansion).double()
    exact.load_state_dict(layer.state_dict())
    x = torch.randn(rows, inputs)
    x_exact = x.double().requires_grad_()
    y = torch.nn.functional.linear(x_exact, exact.to_dense(), exact.bias)
    grad = torch.randn(rows, outputs)
    y.backward(grad.double())
    twiddle, bias = layer.twiddle.detach().numpy(), layer.bias.detach().numpy()
    got = _engine.butterfly_forward(x.numpy(), twiddle, bias, layer.tile, isa, threads)
    grad_x, grad_twiddle = _engine.butterfly_backward(
        x.numpy(), twiddle, grad.numpy(), layer.tile, isa, threads
    )
    # Every number is a sum along log2(n) * 2 * width factors: float32 rounding grows with their count.
    bound = 2.0**-24 * 16 * width * layer.inner.bit_length()
    assert relative(got, y) < bound
    assert relative(grad_x, x_exact.grad) < bound
    assert relative(grad_twiddle, exact.twiddle.grad) < bound


def test_layer_uses_the_kernel_and_agrees_with_the_factors_in_torch() -> None:
    torch.manual_seed(1)
    layer = KLinear(64, 64)
    x = torch.randn(50, 64)
    through_factors = butterfly_multiply(layer.twiddle, x.view(50, 1, 64)).view(50, 64)
    y = layer(x)
    assert y.grad_fn is not None
    assert "ButterflyLayer" in str(y.grad_fn)
    torch.testing.assert_close(y, through_factors, rtol=1e-5, atol=1e-5)


def floats(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("twiddle", "outputs"),
    [(floats(1, 2, 3, 4, 2, 2), 16), (floats(1, 2), 8), (floats(1, 2, 3, 5, 2, 2), 8)],
    ids=["too-few-stacks", "too-few-dimensions", "wrong-pairs"],
)
def test_wrong_twiddles_are_refused(twiddle: NDArray[np.float32], outputs: int) -> None:
    with pytest.raises(ValueError, match=r"twiddle has \d+ (stacks|dimensions)"):
        _engine.butterfly_forward(floats(3, 8), twiddle, floats(outputs), 8)


def test_gradient_of_other_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in rows"):
        _engine.butterfly_backward(floats(3, 8), floats(1, 2, 3, 4, 2, 2), floats(2, 8), 8)
