"""Weights of torch_butterfly's layers, both ways, against its definition written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kserve.convert.pickles import ConvertError
from kserve.convert.torch_butterfly import Butterfly, from_torch_butterfly, to_torch_butterfly
from kserve.kmatrix import KLinear


def foreign(layer: Butterfly, x: Tensor) -> Tensor:
    """What `Butterfly.forward` computes: factor idx has stride 2^idx, in falling blocks n / 2^(idx+1)."""
    twiddle = layer.state["twiddle"]
    stacks, blocks, log_n = twiddle.shape[:3]
    n = 1 << log_n
    state = torch.zeros(len(x), stacks, n, dtype=x.dtype)
    state[:, :, : layer.in_size] = x[:, None]
    rising = layer.increasing_stride
    for block in range(blocks):
        for idx in range(log_n):
            stride = 1 << (idx if rising else log_n - 1 - idx)
            result = torch.empty_like(state)
            for pair in range(n // 2):
                low = pair // stride * 2 * stride + pair % stride
                t = twiddle[:, block, idx, pair]
                a, b = state[:, :, low], state[:, :, low + stride]
                result[:, :, low] = t[:, 0, 0] * a + t[:, 0, 1] * b
                result[:, :, low + stride] = t[:, 1, 0] * a + t[:, 1, 1] * b
            state = result
        rising = not rising
    y = state.flatten(1)[:, : layer.out_size]
    return y + layer.state["bias"] if "bias" in layer.state else y


def random_butterfly(sizes: tuple[int, int], blocks: int, rising: bool, bias: bool = True) -> Butterfly:
    torch.manual_seed(blocks)
    n = max(2, 1 << (sizes[0] - 1).bit_length())
    stacks = -(-sizes[1] // n)
    shape = (stacks, blocks, n.bit_length() - 1, n // 2, 2, 2)
    state = {"twiddle": torch.randn(shape, dtype=torch.float64)}
    if bias:
        state["bias"] = torch.randn(sizes[1], dtype=torch.float64)
    return Butterfly(*sizes, rising, state)


@pytest.mark.parametrize("rising", [True, False], ids=["rising", "falling"])
@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "sizes", [(8, 8), (8, 24), (5, 7), (16, 11), (2, 3)], ids=lambda s: f"{s[0]}to{s[1]}"
)
def test_from_there(sizes: tuple[int, int], blocks: int, rising: bool) -> None:
    layer = random_butterfly(sizes, blocks, rising, bias=blocks % 2 == 0)
    here = from_torch_butterfly(layer)
    x = torch.randn(5, sizes[0], dtype=torch.float64)
    torch.testing.assert_close(here(x), foreign(layer, x), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize(
    "sizes", [(8, 8), (8, 20), (20, 8), (16, 5), (3, 9), (1, 3)], ids=lambda s: f"{s[0]}to{s[1]}"
)
def test_to_there(sizes: tuple[int, int], width: int) -> None:
    layer = KLinear(*sizes, width=width).double()
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(4, sizes[0], dtype=torch.float64)
    parts = to_torch_butterfly(layer)
    padded = torch.zeros(4, sum(part.in_size for part in parts), dtype=torch.float64)
    padded[:, : sizes[0]] = x
    pieces = torch.split(padded, [part.in_size for part in parts], dim=1)
    found = torch.stack([foreign(part, piece) for part, piece in zip(parts, pieces, strict=True)]).sum(0)
    torch.testing.assert_close(found, layer(x), rtol=1e-12, atol=1e-12)


def test_there_and_back() -> None:
    layer = random_butterfly((16, 16), 4, rising=False)
    (back,) = to_torch_butterfly(from_torch_butterfly(layer))
    assert (back.in_size, back.out_size, back.increasing_stride, back.blocks) == (16, 16, False, 4)
    for name, value in layer.state.items():
        assert torch.equal(back.state[name], value)


def test_what_is_refused() -> None:
    with pytest.raises(ConvertError, match="is the upper part of a square of 16"):
        from_torch_butterfly(random_butterfly((16, 5), 2, rising=False))
    layer = random_butterfly((8, 8), 2, rising=False)
    with pytest.raises(ConvertError, match="a real Butterfly of 8 -> 8 has"):
        from_torch_butterfly(Butterfly(8, 8, False, {"twiddle": layer.state["twiddle"] + 0j}))
    with pytest.raises(ConvertError, match="a real Butterfly of 8 -> 9 has"):
        from_torch_butterfly(Butterfly(8, 9, False, layer.state))
    with pytest.raises(ConvertError, match="expansion of 2"):
        to_torch_butterfly(KLinear(8, 8, expansion=2))
