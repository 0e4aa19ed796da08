"""KLinear and its two ways of computing, against float64 matrices multiplied out factor by factor."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kserve.kmatrix import KLinear, butterfly_multiply, materialize, materialized
from kserve.kmatrix.factors import Grid, multiply_grid

SIZES = [(1, 1), (1, 3), (3, 5), (5, 3), (124, 124), (129, 124), (500, 300), (512, 1024), (1024, 512)]
SMALL = [(1, 1), (3, 5), (8, 8), (5, 16), (16, 5), (7, 2)]


def size_id(sizes: tuple[int, int]) -> str:
    return f"{sizes[0]}to{sizes[1]}"


def oracle_square(twiddle: torch.Tensor) -> torch.Tensor:
    """One K-matrix `(2 * width, log2 n, n / 2, 2, 2)` in float64: factors applied to the rows they pair."""
    twiddle = twiddle.detach().double().unsqueeze(-1)
    log_size = twiddle.shape[1]
    matrix = torch.eye(1 << log_size, dtype=torch.float64)
    for block in range(len(twiddle)):
        for bit in range(log_size) if block % 2 else reversed(range(log_size)):
            # Rows whose numbers differ in this bit make a pair; pairs come in the order of the lower one.
            x0, x1 = matrix.view(-1, 2, 1 << bit, 1 << log_size).unbind(1)
            pair = twiddle[block, bit].view(-1, 1 << bit, 2, 2, 1)
            y0 = pair[:, :, 0, 0] * x0 + pair[:, :, 0, 1] * x1
            y1 = pair[:, :, 1, 0] * x0 + pair[:, :, 1, 1] * x1
            matrix = torch.stack([y0, y1], 1).view_as(matrix)
    return matrix


def oracle_dense(layer: KLinear) -> torch.Tensor:
    """The layer's weight (out, in) in float64: squares in a grid, cut to the tile and to the layer."""
    weight = torch.zeros(layer.grid_rows * layer.tile, layer.grid_cols * layer.tile, dtype=torch.float64)
    for row in range(layer.grid_rows):
        for col in range(layer.grid_cols):
            square = oracle_square(layer.twiddle[row * layer.grid_cols + col])
            rows, cols = row * layer.tile, col * layer.tile
            weight[rows : rows + layer.tile, cols : cols + layer.tile] = square[: layer.tile, : layer.tile]
    return weight[: layer.out_features, : layer.in_features]


def make_layer(sizes: tuple[int, int], width: int, expansion: int) -> KLinear:
    torch.manual_seed(sizes[0] * 31 + sizes[1] * 7 + width * 3 + expansion)
    layer = KLinear(*sizes, width=width, expansion=expansion)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.normal_()
    return layer


# float32 runs in the extension's kernel, float64 in torch: by factors for few rows, materialised for many.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("expansion", [1, 2], ids=["e1", "e2"])
@pytest.mark.parametrize("width", [1, 2], ids=["w1", "w2"])
@pytest.mark.parametrize("sizes", SIZES, ids=size_id)
def test_every_regime_equals_the_oracle(
    sizes: tuple[int, int], width: int, expansion: int, dtype: torch.dtype
) -> None:
    layer = make_layer(sizes, width, expansion).to(dtype)
    weight = oracle_dense(layer)
    assert layer.bias is not None
    factors = layer.twiddle.shape[1] * layer.twiddle.shape[2]
    # Every factor rounds each number by at most a few epsilons, and a grid row adds grid_cols parts.
    bound = 8 * (factors + layer.grid_cols) * torch.finfo(dtype).eps
    assert (layer.to_dense().double() - weight).abs().max() < bound
    for rows in (1, 3, 200):
        x = torch.randn(rows, sizes[0], dtype=dtype)
        expected = x.double() @ weight.T + layer.bias.double()
        scale = x.norm(dim=1).max().item() + 4.0
        assert (layer(x).double() - expected).abs().max() < bound * scale


@pytest.mark.parametrize("rows", [1, 7, 70], ids=lambda rows: f"r{rows}")
@pytest.mark.parametrize("sizes", [(3, 5), (40, 40), (129, 64), (64, 129)], ids=size_id)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2)], ids=["w1e1", "w2e2"])
def test_kernel_gradients_equal_those_of_float64(
    sizes: tuple[int, int], shape: tuple[int, int], rows: int
) -> None:
    layer = make_layer(sizes, *shape)
    x = torch.randn(rows, sizes[0], requires_grad=True)
    weights = torch.randn(rows, sizes[1])
    found = torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()])
    exact = copy.deepcopy(layer).double()
    x64 = x.detach().double().requires_grad_()
    wanted = torch.autograd.grad((exact(x64) * weights.double()).sum(), [x64, *exact.parameters()])
    for ours, theirs in zip(found, wanted, strict=True):
        bound = 1e-5 * (
            1.0 + theirs.abs().max().item()
        )  # some hundred float32 roundings of the largest number
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("width", [1, 2, 3], ids=["w1", "w2", "w3"])
@pytest.mark.parametrize("size", [2, 4, 8, 32, 128], ids=lambda size: f"n{size}")
def test_factor_functions_equal_the_oracle(size: int, width: int) -> None:
    log_size = size.bit_length() - 1
    twiddle = torch.randn(3, 2 * width, log_size, size // 2, 2, 2, dtype=torch.float64)
    expected = torch.stack([oracle_square(square) for square in twiddle])
    scale = expected.abs().max().item()
    torch.testing.assert_close(materialize(twiddle), expected, rtol=0, atol=1e-12 * scale)
    x = torch.randn(5, 3, size, dtype=torch.float64)
    y = torch.einsum("soi,rsi->rso", expected, x)
    torch.testing.assert_close(butterfly_multiply(twiddle, x), y, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("width", [1, 2], ids=["w1", "w2"])
@pytest.mark.parametrize("size", [2, 8], ids=lambda size: f"n{size}")
def test_gradients_of_both_regimes(size: int, width: int) -> None:
    torch.manual_seed(size)
    twiddle = torch.randn(
        2, 2 * width, size.bit_length() - 1, size // 2, 2, 2, dtype=torch.float64, requires_grad=True
    )
    x = torch.randn(3, 2, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(materialize, (twiddle,))
    assert torch.autograd.gradcheck(butterfly_multiply, (twiddle, x))


@pytest.mark.parametrize("expansion", [1, 2], ids=["e1", "e2"])
@pytest.mark.parametrize("sizes", SMALL, ids=size_id)
def test_gradients_of_the_layer(sizes: tuple[int, int], expansion: int) -> None:
    layer = make_layer(sizes, 1, expansion).double()
    x = torch.randn(2, sizes[0], dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]
    values = [parameter.detach().clone().requires_grad_() for parameter in layer.parameters()]

    def direct(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(
            layer, dict(zip(names, parameters, strict=True)), (x,)
        )
        return result

    assert torch.autograd.gradcheck(direct, (x, *values))
    # The gradients by the materialised weight are the same function's: compare them with the direct ones.
    many = torch.randn(300, sizes[0], dtype=torch.float64)
    wanted = torch.autograd.grad(
        torch.cat([layer(row) for row in many.view(10, 30, -1)]).square().sum(), layer.twiddle
    )
    found = torch.autograd.grad(layer(many).square().sum(), layer.twiddle)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_regime_is_chosen_by_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    direct, dense = multiply_grid, materialize

    def counted_multiply(x: torch.Tensor, twiddle: torch.Tensor, grid: Grid) -> torch.Tensor:
        calls.append("direct")
        return direct(x, twiddle, grid)

    def counted_materialize(twiddle: torch.Tensor) -> torch.Tensor:
        calls.append("materialise")
        return dense(twiddle)

    monkeypatch.setattr("kserve.kmatrix.layers.multiply_grid", counted_multiply)
    monkeypatch.setattr("kserve.kmatrix.layers.materialize", counted_materialize)
    layer = KLinear(32, 32).double()
    layer(torch.zeros(1, 32, dtype=torch.float64))
    layer(torch.zeros(20, 50, 32, dtype=torch.float64))
    assert calls == ["direct", "materialise"]


def test_materialized_context_shares_one_build_and_keeps_gradients() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(KLinear(16, 32), nn.ReLU(), KLinear(32, 16), KLinear(16, 16)).double()
    x = torch.randn(3, 16, dtype=torch.float64)
    plain = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    with materialized(model):
        shared = torch.autograd.grad(model(x).square().sum(), list(model.parameters()))
    for found, wanted in zip(shared, plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    assert all(layer._dense is None for layer in model if isinstance(layer, KLinear))


def test_drop_in_shapes_bias_and_repr() -> None:
    layer = KLinear(512, 1024)
    assert isinstance(layer, nn.Module)
    assert layer(torch.zeros(2, 7, 512)).shape == nn.Linear(512, 1024)(torch.zeros(2, 7, 512)).shape
    assert layer(torch.zeros(512)).shape == (1024,)
    assert (layer.grid_rows, layer.grid_cols, layer.tile, layer.inner) == (2, 1, 512, 512)
    assert layer.twiddle.shape == (2, 2, 9, 256, 2, 2)
    assert f"parameters={2 * 2 * 9 * 256 * 4 + 1024}" in repr(layer)
    assert KLinear(8, 8, bias=False).bias is None
    assert list(KLinear(8, 8, bias=False).state_dict()) == ["twiddle"]


@pytest.mark.parametrize("sizes", [(64, 64), (64, 128), (128, 64)], ids=size_id)
def test_initial_layer_is_near_orthogonal(sizes: tuple[int, int]) -> None:
    """A square keeps norms exactly; stacked or added squares keep each output's variance in the mean."""
    torch.manual_seed(0)
    weight = KLinear(*sizes).to_dense().detach()
    if sizes[0] == sizes[1]:
        torch.testing.assert_close(weight @ weight.T, torch.eye(sizes[0]), rtol=0, atol=1e-5)
    assert weight.square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 4, 1, 1), "in_features=0"),
        ((4, 0, 1, 1), "out_features=0"),
        ((4, 4, 0, 1), "width=0"),
        ((4, 4, 1, 3), "expansion=3"),
    ],
)
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int, int], message: str) -> None:
    in_features, out_features, width, expansion = sizes
    with pytest.raises(ValueError, match=message):
        KLinear(in_features, out_features, width=width, expansion=expansion)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"5 features; expected 4"):
        KLinear(4, 4)(torch.zeros(1, 5))
    with pytest.raises(ValueError, match="twiddle has shape"):
        materialize(torch.zeros(1, 3, 2, 2, 2, 2))
    with pytest.raises(ValueError, match="x has shape"):
        butterfly_multiply(torch.zeros(1, 2, 2, 2, 2, 2), torch.zeros(1, 1, 8))
