"""The CUDA kernels' own source, run thread by thread on the host, against float64.

Nothing here needs a GPU: it shows that the arithmetic, the indices, the barriers and the memory accesses are
right. That the compiled kernels are too, test_cuda_device.py shows on a machine that has one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulated_cuda import H100_SHARED, NOTHING_WRONG, EmulatedLibrary, compile_emulator
from torch import Tensor

from kserve.cuda.nvcc import CudaUnavailable
from kserve.kmatrix import KLinear
from kserve.kmatrix.factors import Grid, grid_gradients, multiply_grid

# (in, out, width, expansion, rows): every size n, odd row counts, parts of tiles, grids both ways.
SQUARES = [
    (1 << log_n, 1 << log_n, 1, 1, rows) for log_n, rows in enumerate((1, 3, 5, 7, 9, 11, 33, 7, 5), 1)
]
LARGE = [(1 << log_n, 1 << log_n, 1, 1, 3) for log_n in range(10, 15)]
OTHERS = [
    (1, 1, 1, 1, 1),
    (1, 3, 1, 1, 2),
    (5, 5, 2, 1, 3),
    (129, 124, 1, 2, 7),
    (300, 129, 1, 1, 64),
    (512, 1024, 1, 1, 37),
    (1024, 512, 2, 1, 5),
    (100, 300, 1, 1, 1),
    (4096, 4096, 2, 1, 2),
    (9000, 16384, 1, 1, 2),
]
ONE_BLOCK, CLUSTERS = 0, 3


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> EmulatedLibrary:
    return EmulatedLibrary(compile_emulator(tmp_path_factory.mktemp("emulator") / "butterfly.so"))


def shape_id(shape: tuple[int, ...]) -> str:
    return "-".join(map(str, shape))


class Case:
    """A layer with inputs, and what float64 makes of them."""

    def __init__(self, shape: tuple[int, int, int, int, int], *types: torch.dtype) -> None:
        inputs, outputs, width, expansion, rows = shape
        x_type, twiddle_type = types or (torch.float32, torch.float32)
        torch.manual_seed(inputs + rows)
        layer = KLinear(inputs, outputs, width=width, expansion=expansion)
        self.grid = Grid(layer.tile, outputs)
        self.twiddle = layer.twiddle.detach().to(twiddle_type)
        self.bias = torch.randn(outputs).to(twiddle_type)
        self.x = torch.randn(rows, inputs).to(x_type)
        self.grad = torch.randn(rows, outputs).to(x_type)
        exact = (self.x.double(), self.twiddle.double())
        self.y = multiply_grid(*exact, self.grid) + self.bias.double()
        self.grad_x, self.grad_twiddle = grid_gradients(*exact, self.grad.double(), self.grid.tile)
        # Each of the 2 w log n factors rounds twice. A bfloat16 result is rounded once more.
        self.bound = 2.0**-24 * 4 * width * layer.inner.bit_length()

    def check(self, library: EmulatedLibrary) -> None:
        y = library.forward(self.x, self.twiddle, self.bias, self.grid)
        grad_x, grad_twiddle = library.backward(self.x, self.twiddle, self.grad, self.grid)
        for found, wanted in ((y, self.y), (grad_x, self.grad_x), (grad_twiddle, self.grad_twiddle)):
            last = 2.0**-8 if found.dtype == torch.bfloat16 else 0.0
            assert relative(found, wanted) < self.bound + last


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("log_cluster", [ONE_BLOCK, CLUSTERS], ids=["blocks", "clusters"])
@pytest.mark.parametrize("shape", SQUARES + LARGE + OTHERS, ids=shape_id)
def test_kernels_equal_float64(
    library: EmulatedLibrary, shape: tuple[int, int, int, int, int], log_cluster: int
) -> None:
    library.be(processors=4, log_cluster=log_cluster)
    library.findings()
    Case(shape).check(library)
    found = library.findings()
    assert found[:4] == NOTHING_WRONG
    # No bank conflict in any pass; threads with different numbers of rows only seem to collide.
    assert found.wavefronts <= 1.01 * found.accesses


@pytest.mark.parametrize("twiddle_type", [torch.float32, torch.bfloat16], ids=["twiddle32", "twiddle16"])
@pytest.mark.parametrize("x_type", [torch.float32, torch.bfloat16], ids=["x32", "x16"])
@pytest.mark.parametrize("shape", [(512, 512, 1, 1, 20), (129, 300, 2, 1, 9)], ids=shape_id)
def test_both_types_of_numbers(
    library: EmulatedLibrary,
    shape: tuple[int, int, int, int, int],
    x_type: torch.dtype,
    twiddle_type: torch.dtype,
) -> None:
    library.be(processors=8)
    Case(shape, x_type, twiddle_type).check(library)


DEVICES = [(1, 70_000), (2, 99 * 1024), (16, 99 * 1024), (132, 70_000), (132, H100_SHARED)]


@pytest.mark.parametrize(("processors", "shared_bytes"), DEVICES)
def test_every_cut_of_the_work_gives_the_same(
    library: EmulatedLibrary, processors: int, shared_bytes: int
) -> None:
    """Rows of a tile, workers, clusters and how many inputs fit at once change with the device."""
    library.be(processors, shared_bytes)
    library.findings()
    for shape in ((1024, 1024, 2, 1, 19), (4096, 4096, 1, 1, 5), (64, 200, 1, 2, 50)):
        Case(shape).check(library)
    assert library.findings()[:4] == NOTHING_WRONG


def test_plans_reach_every_branch(library: EmulatedLibrary) -> None:
    """What the tests above rely on: segments that are parked, one input at a time, each size of a cluster."""
    large, small = Case((16384, 16384, 1, 1, 2)), Case((512, 512, 1, 1, 300))
    library.be(1, H100_SHARED, ONE_BLOCK)
    assert library.plan(large.x, large.twiddle, large.grid, backward=True).segments > 2
    library.be(1, 70_000, CLUSTERS)
    assert library.plan(large.x, large.twiddle, large.grid, backward=True).inputs_held == 1
    library.be(4)
    assert library.plan(small.x, small.twiddle, small.grid, backward=True).workers > 1
    clusters = set()
    for processors in (1, 2, 4, 8, 132):
        library.be(processors)
        for case in (small, large):
            clusters.add(library.plan(case.x, case.twiddle, case.grid, backward=False).cluster)
    assert clusters == {1, 2, 4, 8}


def test_few_rows_fill_an_h100(library: EmulatedLibrary) -> None:
    """64 rows of n = 1024 ... 4096, which must beat a dense product: nearly all multiprocessors work."""
    library.be(132)
    for n in (1024, 2048, 4096):
        case = Case((n, n, 1, 1, 64))
        assert library.plan(case.x, case.twiddle, case.grid, backward=False).blocks >= 100


def test_same_sums_every_time(library: EmulatedLibrary) -> None:
    library.be(4)
    case = Case((1024, 512, 1, 1, 100))
    first = library.backward(case.x, case.twiddle, case.grad, case.grid)
    again = library.backward(case.x, case.twiddle, case.grad, case.grid)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_slices_that_are_not_aligned(library: EmulatedLibrary) -> None:
    """A view from an odd address on, and columns with gaps between the rows."""
    library.be(4)
    case = Case((64, 64, 1, 1, 9))
    odd = torch.empty(9 * 64 + 1)[1:].view(9, 64).copy_(case.x)
    gaps = torch.empty(9, 80)[:, :64].copy_(case.x)
    wanted = library.forward(case.x, case.twiddle, case.bias, case.grid)
    for x in (odd, gaps):
        assert torch.equal(library.forward(x, case.twiddle, case.bias, case.grid), wanted)


def test_largest_size_depends_on_the_device(library: EmulatedLibrary) -> None:
    """Three rows of n floats, or slices of them, must fit: the input of a pass, the gradient, and a sum."""
    for shared_bytes, log_cluster, largest in (
        (H100_SHARED, CLUSTERS, 16384),
        (163 * 1024, ONE_BLOCK, 8192),
        (99 * 1024, ONE_BLOCK, 8192),
        (99 * 1024, CLUSTERS, 16384),
        (48 * 1024, ONE_BLOCK, 4096),
    ):
        library.be(4, shared_bytes, log_cluster)
        assert library.largest(torch.device("cpu")) == largest


def test_what_is_refused(library: EmulatedLibrary) -> None:
    library.be(4, shared_bytes=60_000, log_cluster=ONE_BLOCK)
    case = Case((16384, 16384, 1, 1, 1))
    with pytest.raises(CudaUnavailable, match="does not fit this device's shared memory"):
        library.forward(case.x, case.twiddle, case.bias, case.grid)
    with pytest.raises(CudaUnavailable, match="rows, in, out, tile and blocks must be at least 1"):
        library.forward(case.x[:0], case.twiddle, case.bias, case.grid)
    with pytest.raises(ValueError, match=r"x is torch.float64; the CUDA kernels take float32 and bfloat16"):
        library.forward(case.x.double(), case.twiddle, case.bias, case.grid)


FAULTS = {
    "sound": (0, {}),
    "race": (1, {"races"}),
    "sound-cluster": (2, {}),
    "race-in-cluster": (3, {"races"}),
    "write-after-read": (4, {"races"}),
    "barrier-not-reached": (5, {"diverged"}),
    "unwritten": (6, {"unwritten"}),
    "outside": (7, {"outside"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_emulator_finds_faults(library: EmulatedLibrary, name: str) -> None:
    number, kinds = FAULTS[name]
    found = library.fault(number)._asdict()
    assert {kind for kind in ("races", "unwritten", "outside", "diverged") if found[kind]} == set(kinds)


def test_emulator_counts_bank_conflicts(library: EmulatedLibrary) -> None:
    found = library.fault(8)
    assert found.wavefronts == 2 * found.accesses


SANITIZED = """
import sys; sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from emulated_cuda import EmulatedLibrary
from test_cuda_emulated import OTHERS, SQUARES, Case
library = EmulatedLibrary(Path(sys.argv[3]))
for log_cluster in (0, 3):
    library.be(processors=4, log_cluster=log_cluster)
    for shape in [*SQUARES, *OTHERS[:-2], (2048, 2048, 1, 1, 3)]:
        Case(shape).check(library)
print("clean")
"""


@pytest.mark.proof
def test_global_memory_under_the_address_sanitizer(tmp_path: Path) -> None:
    """Every access to x, twiddles, results and workspace lies within them."""
    options = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    file = compile_emulator(tmp_path / "butterfly.so", options)
    asan = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = {
        "LD_PRELOAD": asan.stdout.strip(),
        # Python leaks on purpose, and the emulator's threads change stacks.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "OMP_NUM_THREADS": "1",
    }
    tests = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", SANITIZED, str(tests), str(tests.parent), str(file)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "clean"
