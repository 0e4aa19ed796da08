"""The layers that K-matrices are compared with."""

from __future__ import annotations

import pytest
import torch

from kserve.kmatrix import KLinear
from kserve.kmatrix.layers import kmatrix_numbers
from kserve.kmatrix.rivals import CirculantLinear, LowRankLinear
from kserve.train.spec import LinearSpec

SIZES = [(8, 8), (8, 24), (24, 8), (5, 12), (1, 3)]


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"{sizes[0]}to{sizes[1]}")
@pytest.mark.parametrize("kind", ["lowrank", "circulant"])
def test_layers_multiply_by_their_dense_weight(kind: str, sizes: tuple[int, int]) -> None:
    layer = LinearSpec(kind).make(*sizes).double()
    assert isinstance(layer, LowRankLinear | CirculantLinear)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(5, sizes[0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), x @ layer.to_dense().T + layer.bias)
    assert torch.autograd.gradcheck(layer, (x,))


def test_a_circulant_square_is_a_circular_convolution() -> None:
    layer = CirculantLinear(7, 7).double()
    x = torch.randn(7, dtype=torch.float64)
    spectrum = torch.fft.fft(layer.columns.detach()[0, 0]) * torch.fft.fft(x)
    torch.testing.assert_close(layer.to_dense().detach() @ x, torch.fft.ifft(spectrum).real)


def test_a_low_rank_layer_has_as_many_numbers_as_the_kmatrix() -> None:
    for sizes in ((256, 256), (256, 512), (512, 1024)):
        kmatrix, lowrank = (LinearSpec(kind).make(*sizes) for kind in ("kmatrix", "lowrank"))
        assert isinstance(kmatrix, KLinear)
        assert kmatrix_numbers(*sizes) == kmatrix.twiddle.numel()
        numbers = [sum(p.numel() for p in layer.parameters()) for layer in (kmatrix, lowrank)]
        assert numbers[1] == pytest.approx(numbers[0], rel=0.05)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="4 -> 0 -> 4"):
        LowRankLinear(4, 4, 0)
