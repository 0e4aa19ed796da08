"""The CUDA operator without a CUDA device: twin and registration, the compiler, the choice of a kernel."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kserve.cuda.choice import ESTIMATED, FILE, MATERIALIZE_ROWS, Choice, Route
from kserve.cuda.devices import Device, devices
from kserve.cuda.nvcc import Compiler, CudaUnavailable, build, compile_library, compiler, library_file
from kserve.errors import SettingsError
from kserve.kmatrix import KLinear, cuda, materialized
from kserve.kmatrix.factors import butterfly_gradients, butterfly_multiply
from kserve.report import training_kernels

LAYERS = [(5, 3, 1, 1), (3, 8, 2, 1), (8, 3, 1, 2), (6, 6, 1, 1)]


def layer_id(sizes: tuple[int, ...]) -> str:
    return "-".join(map(str, sizes))


def make_layer(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> KLinear:
    inputs, outputs, width, expansion = sizes
    torch.manual_seed(inputs)
    layer = KLinear(inputs, outputs, width=width, expansion=expansion).to(dtype)
    assert layer.bias is not None
    torch.nn.init.normal_(layer.bias)
    return layer


def apply(layer: KLinear, x: Tensor) -> Tensor:
    result: Tensor = torch.ops.kserve.butterfly_layer(
        x, layer.twiddle, layer.bias, layer.tile, layer.out_features
    )
    return result


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=["f32", "f64", "bf16"])
@pytest.mark.parametrize("sizes", LAYERS, ids=layer_id)
def test_operator_is_registered_as_torch_wants(
    sizes: tuple[int, int, int, int], dtype: torch.dtype, with_bias: bool
) -> None:
    """Schema, autograd, fake tensors and ahead-of-time tracing with sizes that change."""
    layer = make_layer(sizes, dtype)
    x = torch.randn(4, sizes[0], dtype=dtype, requires_grad=True)
    bias = layer.bias if with_bias else None
    torch.library.opcheck(cuda.butterfly_layer, (x, layer.twiddle, bias, layer.tile, sizes[1]))
    grad = torch.randn(4, sizes[1], dtype=dtype)
    given = (x.detach(), layer.twiddle.detach(), grad, layer.tile)
    torch.library.opcheck(cuda.butterfly_layer_backward, given)


@pytest.mark.parametrize("sizes", LAYERS, ids=layer_id)
def test_twin_equals_the_layer_and_its_gradients_are_right(sizes: tuple[int, int, int, int]) -> None:
    layer = make_layer(sizes, torch.float64)
    x = torch.randn(3, sizes[0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(apply(layer, x), layer(x), rtol=1e-12, atol=1e-12)

    def operator(x: Tensor, twiddle: Tensor, bias: Tensor) -> Tensor:
        result: Tensor = torch.ops.kserve.butterfly_layer(x, twiddle, bias, layer.tile, sizes[1])
        return result

    assert torch.autograd.gradcheck(operator, (x, *layer.parameters()))


@pytest.mark.parametrize("width", [1, 2], ids=["w1", "w2"])
@pytest.mark.parametrize("size", [2, 16], ids=lambda size: f"n{size}")
def test_written_out_gradients_equal_autograd(size: int, width: int) -> None:
    torch.manual_seed(size)
    log_size = size.bit_length() - 1
    twiddle = torch.randn(3, 2 * width, log_size, size // 2, 2, 2, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, size, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(5, 3, size, dtype=torch.float64)
    wanted = torch.autograd.grad(butterfly_multiply(twiddle, x), (x, twiddle), grad)
    found = butterfly_gradients(twiddle.detach(), x.detach(), grad)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_compiled_in_one_graph_for_any_number_of_rows() -> None:
    layer = make_layer((12, 20, 1, 1), torch.float64)

    def step(x: Tensor) -> Tensor:
        return apply(layer, torch.relu(x)).square().sum()

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (2, 7, 30):
        x = torch.randn(rows, 12, dtype=torch.float64, requires_grad=True)
        found = torch.autograd.grad(compiled(x), (x, layer.twiddle))
        wanted = torch.autograd.grad(step(x), (x, layer.twiddle))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_types_of_input_and_twiddles_may_differ() -> None:
    """As under autocast: bfloat16 rows, float32 weights and gradients."""
    layer = make_layer((40, 24, 1, 1), torch.float32)
    x = torch.randn(9, 40, dtype=torch.bfloat16, requires_grad=True)
    y = apply(layer, x)
    grads = torch.autograd.grad(y.float().sum(), (x, *layer.parameters()))
    assert [y.dtype, *(grad.dtype for grad in grads)] == [torch.bfloat16] * 2 + [torch.float32] * 2
    exact = torch.nn.functional.linear(x.float(), layer.to_dense(), layer.bias)
    assert (y.float() - exact).abs().max() < 2.0**-4 * exact.abs().max()


@pytest.mark.parametrize(
    ("x", "twiddle", "message"),
    [
        ((3, 8, 1), (1, 2, 3, 4, 2, 2), r"expected \(rows, in\)"),
        ((3, 8), (1, 2, 3, 4, 2), r"expected \(rows, in\)"),
        ((3, 8), (2, 2, 3, 4, 2, 2), "need 1 squares"),
        ((3, 8), (1, 2, 3, 5, 2, 2), "need 1 squares"),
        ((3, 8), (1, 3, 3, 4, 2, 2), "need 1 squares"),
        ((3, 8), (1, 2, 2, 2, 2, 2), "at least that size"),
    ],
)
def test_wrong_shapes_are_refused(x: tuple[int, ...], twiddle: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch.ops.kserve.butterfly_layer(torch.zeros(x), torch.zeros(twiddle), None, 8, 8)


# The compiler.


@pytest.fixture(scope="module")
def nvcc() -> Compiler:
    try:
        return compiler()
    except CudaUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.proof  # half a minute; the emulator's compiler sees the same sources in every `make test`
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm80", "sm90"])
def test_kernels_compile_without_warnings_and_hardly_spill(
    nvcc: Compiler, capability: tuple[int, int], tmp_path: Path
) -> None:
    strict = ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra", "-Xptxas", "-v"]
    said = compile_library(nvcc, capability, tmp_path / "butterfly.so", strict)
    assert (tmp_path / "butterfly.so").stat().st_size > 0
    kernels = re.findall(r"Compiling entry function", said)
    spilled = [int(number) for number in re.findall(r"(\d+) bytes spill stores", said)]
    assert len(kernels) == len(spilled) == 10
    # Registers are cut to the limit on purpose; a few bytes outside of the loops are their price.
    assert max(spilled) <= 16


@pytest.mark.proof
def test_library_is_compiled_once_and_found_again(nvcc: Compiler, tmp_path: Path) -> None:
    first = build(nvcc, (9, 0), tmp_path)
    stamp = first.stat().st_mtime_ns
    assert build(nvcc, (9, 0), tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert [file.name for file in first.parent.iterdir()] == [first.name]  # no drafts are left
    other = library_file(Compiler(nvcc.path, "V99.0"), (9, 0), tmp_path)
    assert first not in (other, library_file(nvcc, (8, 0), tmp_path))


def test_what_the_compiler_refuses_is_told(nvcc: Compiler, tmp_path: Path) -> None:
    with pytest.raises(CudaUnavailable, match=r"cannot compile the CUDA kernels for compute capability 9\.9"):
        build(nvcc, (9, 9), tmp_path)
    assert list((tmp_path / "cuda").iterdir()) == []


def test_missing_compiler_old_device_and_bad_cache(tmp_path: Path) -> None:
    missing = tmp_path / "nvcc"
    with pytest.raises(
        CudaUnavailable, match="install the CUDA toolkit, put nvcc on PATH, or set KSERVE_NVCC"
    ):
        compiler(missing)
    with pytest.raises(CudaUnavailable, match=r"need compute capability 8\.0; this device has 7\.5"):
        build(Compiler(missing, "V13.0"), (7, 5), tmp_path)
    with pytest.raises(CudaUnavailable, match="did not run"):
        build(Compiler(missing, "V13.0"), (9, 0), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(CudaUnavailable, match="set KSERVE_CACHE to a folder that can be written"):
        build(Compiler(missing, "V13.0"), (9, 0), tmp_path / "file")


# The choice.


def test_route_follows_thresholds_and_says_so(tmp_path: Path) -> None:
    choice = Choice("some device", {256: 0, 1024: 100, 4096: 5000}, measured=True)
    assert choice.route(1, 256) is Route.DENSE
    assert choice.route(100, 1024) is Route.KERNEL
    assert choice.route(101, 1024) is Route.DENSE
    assert choice.route(3000, 8192) is Route.KERNEL  # as the nearest size that has a threshold
    assert choice.route(1, 1024, types=False) is Route.FACTORS
    assert replace(choice, largest=512).route(1, 1024) is Route.FACTORS
    assert "100 at n 1024" in choice.explain()
    assert "(measured)" in choice.explain()
    assert choice.save(tmp_path) == tmp_path / FILE
    assert Choice.load("some device", tmp_path) == choice
    other = Choice.load("another device", tmp_path)
    assert other.rows == ESTIMATED
    assert "estimated; measure with `kserve bench cuda`" in other.explain()
    other.save(tmp_path)
    assert Choice.load("some device", tmp_path) == choice  # kept beside the other's


def test_layers_on_the_processor_are_built_whatever_the_rows() -> None:
    layer = KLinear(8, 8)
    with materialized(layer, rows=1):
        assert layer._dense is not None
    assert cuda.route(1, torch.float64, layer.twiddle) is Route.FACTORS
    assert "not a CUDA device" in cuda.explain(torch.device("cpu"))


def test_obstacle_leaves_the_other_two_and_is_told() -> None:
    choice = Choice("some device", ESTIMATED, obstacle="no CUDA compiler")
    assert choice.route(MATERIALIZE_ROWS - 1, 4096) is Route.FACTORS
    assert choice.route(MATERIALIZE_ROWS, 4096) is Route.DENSE
    assert "no CUDA kernel: no CUDA compiler" in choice.explain()


@pytest.mark.parametrize("content", ["{", "[]", '{"device": 3}', '{"device": {"n": 1}}'])
def test_damaged_thresholds_are_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(SettingsError, match="holds no thresholds"):
        Choice.load("some device", tmp_path)


def test_devices_are_listed_without_torch() -> None:
    assert [device.name for device in devices()] == [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]


@pytest.mark.parametrize("nvcc_works", [True, False], ids=["nvcc", "no-nvcc"])
def test_info_says_what_would_run(nvcc_works: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with a device, which this one need not be."""
    fake = tmp_path / "nvcc"
    fake.write_text("#!/bin/sh\necho Cuda compilation tools, release 13.0, V13.0.88\n")
    fake.chmod(0o755 if nvcc_works else 0o644)
    monkeypatch.setenv("KSERVE_NVCC", str(fake))
    monkeypatch.setenv("KSERVE_CACHE", str(tmp_path))
    monkeypatch.setattr("kserve.report.devices", lambda: [Device("some device", (9, 0))])
    Choice("some device", {1024: 77}, measured=True).save(tmp_path)
    told = training_kernels()[0]
    assert (told["device"], told["capability"], told["compiled"]) == ("some device", "9.0", False)
    assert told["nvcc"] == ("V13.0.88" if nvcc_works else None)
    assert ("77 at n 1024 (measured)" if nvcc_works else "no CUDA kernel: no CUDA compiler") in told["rule"]
