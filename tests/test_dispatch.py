"""The choice of instruction set, and the objects it chooses from."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kserve._engine import kernels

CHECKOUT = Path(__file__).resolve().parents[1]
OBJECTS = "build/*/CMakeFiles/kserve_kernels.dir/cpp/{}/isa_{}.cpp.o"


@pytest.fixture
def processor_flags() -> frozenset[str]:
    """What Linux says that the processor has."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    pytest.skip("/proc/cpuinfo has no flags here")


def test_forced_instruction_set_is_the_one_that_runs(isa: str) -> None:
    assert kernels.choose(isa).name == isa


def test_without_a_name_the_best_is_chosen() -> None:
    assert kernels.choose().name == kernels.available()[0]


def test_available_is_ordered_best_first_and_ends_with_the_plain_path() -> None:
    order = [
        name for name in ("amx", "avx512vnni", "avx512", "avx2", "scalar") if name in kernels.available()
    ]
    assert kernels.available() == order
    assert order[-1] == "scalar"


def test_vnni_is_a_path_of_its_own_beside_avx512(processor_flags: frozenset[str]) -> None:
    """A processor with AVX-512 and no VNNI must still have the avx512 path."""
    wide = {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= processor_flags
    assert ("avx512" in kernels.available()) == wide
    assert ("avx512vnni" in kernels.available()) == (wide and "avx512_vnni" in processor_flags)


@pytest.mark.parametrize("name", ["sse9", "AVX2", " avx2"])
def test_unknown_name_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(ValueError, match="use one of: ") as error:
        kernels.choose(name)
    assert name in str(error.value)
    assert str(error.value).endswith(", ".join(kernels.available()))


@pytest.mark.parametrize(("folder", "kind"), [("kernels", "Table"), ("training", "Training")])
def test_objects_of_the_instruction_sets_share_no_definition(isa: str, folder: str, kind: str) -> None:
    """A shared definition (weak, or unique) could put wide instructions into the plain path."""
    if folder == "training" and isa == "avx512vnni":
        pytest.skip("training runs the avx512 kernels there")
    pattern = OBJECTS.format(folder, isa)
    found = sorted(CHECKOUT.glob(pattern), key=lambda path: path.stat().st_mtime)
    nm = shutil.which("nm")
    if not found or nm is None:
        pytest.skip(f"needs nm and the objects of a build ({pattern})")
    command = [nm, "-C", "--defined-only", str(found[-1])]
    listing = subprocess.run(command, capture_output=True, text=True, check=True)
    symbols = [line.split(maxsplit=1)[1] for line in listing.stdout.splitlines()]
    shared = [symbol for symbol in symbols if symbol[0] in "uvw" or symbol[0].isupper()]
    (table,) = shared
    assert table[2:] == f"kserve::{folder}::k{isa.capitalize()}{kind}"
