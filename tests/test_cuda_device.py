"""The compiled CUDA kernels on a CUDA device, against float64; skipped, and reported so, without one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kserve.cuda.choice import Choice, Route
from kserve.cuda.nvcc import CudaUnavailable, compiler
from kserve.kmatrix import KLinear, cuda, graphs, materialized
from kserve.kmatrix.factors import Grid, grid_gradients, multiply_grid

pytestmark = pytest.mark.gpu

SIZES = [1 << log_n for log_n in range(1, 15)]
ROWS = [1, 7, 63, 65, 333]
GRIDS = [(1, 3), (129, 124), (300, 129), (512, 1024), (1024, 512), (9000, 16384)]
SMALL = [(4, 4, 1), (129, 124, 1), (300, 129, 1), (1024, 1024, 1), (2048, 2048, 2), (16384, 16384, 1)]


@pytest.fixture(scope="module", autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; torch sees none")
    try:
        compiler()
    except CudaUnavailable as error:
        pytest.skip(str(error))
    return torch.device("cuda")


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def check(layer: KLinear, x: Tensor, last: float = 0.0) -> None:
    """Forward and backward against float64 on the same device; `last` is what rounding the result costs."""
    layer, x = layer.cuda(), x.cuda()
    grid = Grid(layer.tile, layer.out_features)
    assert layer.bias is not None
    x.requires_grad_()
    y = torch.ops.kserve.butterfly_layer(x, layer.twiddle, layer.bias, *grid)
    grad = torch.randn_like(y)
    found = (y, *torch.autograd.grad(y, (x, layer.twiddle, layer.bias), grad))
    exact = (x.detach().double(), layer.twiddle.detach().double())
    wanted = (
        multiply_grid(*exact, grid) + layer.bias.double(),
        *grid_gradients(*exact, grad.double(), grid.tile),
        grad.double().sum(0),
    )
    bound = 2.0**-24 * 4 * layer.width * layer.inner.bit_length() + last
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative(ours.detach(), theirs.detach()) < bound


@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"r{rows}")
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"n{size}")
def test_every_size_at_odd_rows(size: int, rows: int) -> None:
    torch.manual_seed(size)
    check(KLinear(size, size), torch.randn(rows, size))


@pytest.mark.parametrize("width", [1, 2, 3], ids=["w1", "w2", "w3"])
@pytest.mark.parametrize("sizes", GRIDS, ids=lambda sizes: f"{sizes[0]}to{sizes[1]}")
def test_grids_and_widths(sizes: tuple[int, int], width: int) -> None:
    torch.manual_seed(width)
    check(KLinear(*sizes, width=width), torch.randn(37, sizes[0]))


@pytest.mark.parametrize("size", [64, 512, 4096], ids=lambda size: f"n{size}")
def test_bfloat16_rows(size: int) -> None:
    torch.manual_seed(size)
    check(KLinear(size, size), torch.randn(65, size).bfloat16(), last=2.0**-8)
    check(KLinear(size, size).bfloat16(), torch.randn(65, size).bfloat16(), last=2.0**-8)


@pytest.mark.sanitize
@pytest.mark.parametrize("shape", SMALL, ids=lambda shape: "-".join(map(str, shape)))
def test_small_cases_of_every_kind(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(shape[0])
    check(KLinear(*shape[:2], width=shape[2]), torch.randn(5, shape[0]))


@pytest.mark.parametrize(
    "sizes", [(2, 2), (5, 12), (12, 5), (16, 16)], ids=lambda sizes: f"{sizes[0]}to{sizes[1]}"
)
def test_gradcheck_in_float32(sizes: tuple[int, int]) -> None:
    """The product is linear in every single number, so wide differences are exact but for rounding."""
    torch.manual_seed(sizes[0])
    layer = KLinear(*sizes).cuda()
    x = torch.randn(3, sizes[0], device="cuda", requires_grad=True)

    def operator(x: Tensor, twiddle: Tensor, bias: Tensor) -> Tensor:
        result: Tensor = torch.ops.kserve.butterfly_layer(x, twiddle, bias, layer.tile, sizes[1])
        return result

    assert torch.autograd.gradcheck(operator, (x, *layer.parameters()), eps=0.25, atol=1e-4, rtol=1e-4)


def test_opcheck_on_the_device() -> None:
    layer = KLinear(24, 40).cuda()
    x = torch.randn(4, 24, device="cuda", requires_grad=True)
    torch.library.opcheck(torch.ops.kserve.butterfly_layer, (x, layer.twiddle, layer.bias, layer.tile, 40))


def test_same_bits_every_time() -> None:
    torch.manual_seed(3)
    layer = KLinear(1024, 512).cuda()
    x = torch.randn(1000, 1024, device="cuda")
    runs = [torch.autograd.grad(layer(x).square().sum(), layer.twiddle)[0] for _ in range(5)]
    assert all(torch.equal(run, runs[0]) for run in runs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's inductor uses torch.jit on itself
def test_compiled_model_trains_as_the_plain_one() -> None:
    torch.manual_seed(4)
    model = torch.nn.Sequential(KLinear(256, 512), torch.nn.ReLU(), KLinear(512, 256)).cuda()
    x = torch.randn(33, 256, device="cuda")
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True)
    plain = torch.autograd.grad(model(x).square().mean(), list(model.parameters()))
    fused = torch.autograd.grad(compiled(x).square().mean(), list(twin.parameters()))
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_other_streams_and_graphs() -> None:
    layer = KLinear(512, 512).cuda()
    x = torch.randn(16, 512, device="cuda")
    wanted = layer(x).detach()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), torch.no_grad():
        beside = layer(x)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = layer(x)
        graph.replay()
        stream.synchronize()
    assert torch.equal(beside, wanted)
    assert torch.equal(captured, wanted)


def test_layers_follow_the_saved_thresholds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSERVE_CACHE", str(tmp_path))
    Choice(torch.cuda.get_device_name(), {64: 10, 512: 0}, measured=True).save(tmp_path)
    cuda.choice_for.cache_clear()
    model = torch.nn.Sequential(KLinear(64, 64), KLinear(512, 512)).cuda()
    layers = [layer for layer in model if isinstance(layer, KLinear)]
    for rows, built in ((10, [False, True]), (11, [True, True]), (None, [True, True])):
        with materialized(model, rows=rows):
            assert [layer._dense is not None for layer in layers] == built
    assert [cuda.route(10, torch.float32, layer.twiddle) for layer in layers] == [Route.KERNEL, Route.DENSE]
    assert "10 at n" not in cuda.explain(torch.device("cuda"))  # told from n = 256 on
    cuda.choice_for.cache_clear()


def test_no_rows() -> None:
    layer = KLinear(64, 64).cuda()
    x = torch.zeros(0, 64, device="cuda", requires_grad=True)
    y = torch.ops.kserve.butterfly_layer(x, layer.twiddle, layer.bias, layer.tile, 64)
    grad_twiddle = torch.autograd.grad(y.sum(), layer.twiddle)[0]
    assert y.shape == (0, 64)
    assert not grad_twiddle.any()


def layered() -> torch.nn.Sequential:
    torch.manual_seed(5)
    return torch.nn.Sequential(KLinear(128, 512), KLinear(512, 130, width=2), KLinear(130, 64)).cuda()


def loss_of(model: torch.nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    with materialized(model, dtype):
        return model(x.to(dtype)).float().square().mean()


def gradients(model: torch.nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) == len(list(model.parameters()))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recorded_growth_trains_as_the_unrecorded_does(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(3, 40, 128, device="cuda")
    models = [layered() for _ in range(2)]
    losses: list[list[float]] = []
    for model, is_recorded in zip(models, (True, False), strict=True):
        with monkeypatch.context() as patch:
            if not is_recorded:
                patch.setattr(graphs, "_recordable", lambda _: False)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
            losses.append([])
            for _ in range(3):
                for part in x:  # gradients are added up over the parts
                    loss = loss_of(model, part, dtype)
                    loss.backward()
                    losses[-1].append(loss.item())
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    assert [model in graphs._RECORDED for model in models] == [True, False]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4 if dtype == torch.float32 else 1e-2)


def test_recorded_growth_with_two_forward_passes_before_a_backward_pass() -> None:
    model, x = layered(), torch.randn(2, 40, 128, device="cuda")
    for part in x:
        loss_of(model, part, torch.float32).backward()
    wanted = [grad.clone() for grad in gradients(model)]
    model.zero_grad(set_to_none=True)
    first, second = (loss_of(model, part, torch.float32) for part in x)
    (first + second).backward()
    for found, one in zip(gradients(model), wanted, strict=True):
        assert relative(found, one.double()) < 1e-5


def test_recorded_growth_follows_its_parameters() -> None:
    model, x = layered(), torch.randn(40, 128, device="cuda")
    before = loss_of(model, x, torch.float32).item()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    plain = copy.deepcopy(model)
    assert loss_of(model, x, torch.float32).item() == loss_of(plain, x, torch.float32).item() != before
    for parameter in model.parameters():  # elsewhere in memory
        parameter.data = parameter.data.clone().mul_(0.9)
    with torch.no_grad():
        wanted = loss_of(model, x, torch.float32).item()
    assert loss_of(model, x, torch.float32).item() == wanted
