"""K-matrices of known transforms against the transforms themselves, in torch and in the run-time layout."""

from __future__ import annotations

import pytest
import torch

from kserve.kmatrix import KLinear, materialize, special
from kserve.runtime_layout import pack, unpack_dense
from kserve.unit_factors import LANES

SIZES = [2, 4, 8, 16, 32, 128, 512]


def sylvester(size: int) -> torch.Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return matrix


def assert_stored(twiddle: torch.Tensor, expected: torch.Tensor) -> None:
    """The packed words of a twiddle stand for a matrix, but for what 16 bits a number and a diagonal cost."""
    error = (as_stored(twiddle) - expected).norm() / expected.norm()
    assert error < 0.04


def as_stored(twiddle: torch.Tensor) -> torch.Tensor:
    """The dense matrix that the packed words of a twiddle stand for."""
    size = 1 << twiddle.shape[2]
    inner = max(size, LANES)
    dense = unpack_dense(pack(twiddle[0].numpy(), inner), inner, twiddle.shape[1] // 2)
    return torch.from_numpy(dense)[:size, :size]


@pytest.mark.parametrize("size", SIZES)
def test_identity_is_exact(size: int) -> None:
    torch.testing.assert_close(
        materialize(special.identity(size))[0], torch.eye(size).double(), rtol=0, atol=0
    )


@pytest.mark.parametrize("size", SIZES)
def test_hadamard_is_exact_in_torch(size: int) -> None:
    twiddle = special.hadamard(size)
    torch.testing.assert_close(materialize(twiddle)[0], sylvester(size), rtol=0, atol=0)
    assert_stored(twiddle, sylvester(size))


@pytest.mark.parametrize("rows", [1, 300], ids=["direct", "materialised"])
def test_layer_holding_hadamard_transforms_in_both_regimes(rows: int) -> None:
    layer = KLinear(64, 64, bias=False).double()
    with torch.no_grad():
        layer.twiddle.copy_(special.hadamard(64))
    x = torch.randn(rows, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    torch.testing.assert_close(layer(x), x @ sylvester(64), rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["random", "reversal", "bit_reversal", "rotation"])
def test_every_permutation_has_width_one(size: int, kind: str) -> None:
    bits = size.bit_length() - 1
    sources = {
        "random": torch.randperm(size, generator=torch.Generator().manual_seed(size)).tolist(),
        "reversal": list(reversed(range(size))),
        "bit_reversal": [int(f"{index:0{bits}b}"[::-1], 2) for index in range(size)],
        "rotation": [(index + 1) % size for index in range(size)],
    }[kind]
    twiddle = special.permutation(sources)
    assert twiddle.shape[1] == 2
    expected = torch.eye(size, dtype=torch.float64)[sources]
    torch.testing.assert_close(materialize(twiddle)[0], expected, rtol=0, atol=0)
    assert_stored(twiddle, expected)


@pytest.mark.parametrize("size", [1, 2, 4, 16, 64])
@pytest.mark.parametrize("inverse", [False, True], ids=["forward", "inverse"])
def test_fourier_equals_fft(size: int, inverse: bool) -> None:
    twiddle = special.fourier(size, inverse)
    x = torch.randn(5, size, dtype=torch.complex128, generator=torch.Generator().manual_seed(size))
    flat = torch.view_as_real(x).reshape(5, 2 * size)
    y = torch.view_as_complex((flat @ materialize(twiddle)[0].T).reshape(5, size, 2))
    torch.testing.assert_close(y, torch.fft.ifft(x) if inverse else torch.fft.fft(x), rtol=1e-12, atol=1e-12)


def test_fourier_can_be_stored() -> None:
    twiddle = special.fourier(16)
    assert_stored(twiddle, materialize(twiddle)[0])


def test_circulant_equals_circular_convolution() -> None:
    column = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([column.roll(shift) for shift in range(16)], dim=1)
    dense = materialize(special.circulant(column))[0]
    torch.testing.assert_close(dense[0::2, 0::2], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dense[1::2, 0::2], torch.zeros_like(expected), rtol=0, atol=1e-12)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        special.identity(12)
    with pytest.raises(ValueError, match="power of two"):
        special.permutation([2, 0, 1])
    with pytest.raises(ValueError, match=r"each of 0 \.\.\. 3 once"):
        special.permutation([0, 1, 1, 3])
    with pytest.raises(ValueError, match="equal stacks and sizes"):
        special.compose(special.identity(4), special.identity(8))
