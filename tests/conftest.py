"""What all tests share: the instruction sets to run on, the parallel text, versions in the report."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# One thread for torch here and in the processes that tests start: on a busy machine its threads wait for each
# other far longer than they compute. The engine's own thread counts are not touched by it.
os.environ["OMP_NUM_THREADS"] = "1"

import httpx
import numpy as np
import pytest
import tiny_bundle
from server_process import Server

from kserve._engine import kernels
from kserve.translator import Translator

ISAS = ("scalar", "avx2", "avx512", "avx512vnni", "amx")


def pytest_report_header() -> str:
    return f"kserve kernels: {', '.join(kernels.available())}; numpy {np.__version__}"


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    """Each instruction set by name; one that this processor lacks is skipped, and the report says so."""
    name: str = request.param
    if name not in kernels.available():
        pytest.skip(f"this processor has no {name}")
    return name


@pytest.fixture
def table(isa: str) -> kernels.Kernels:
    """The raw kernels of each instruction set."""
    return kernels.choose(isa)


@pytest.fixture
def wide_tables() -> list[kernels.Kernels]:
    """The paths with fused multiply-add, which must agree bit for bit."""
    names = [name for name in ISAS if name != "scalar" and name in kernels.available()]
    if len(names) < 2:
        pytest.skip(f"needs two paths with fused multiply-add; this processor has {names}")
    return [kernels.choose(name) for name in names]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text to train on."""
    from training_runs import write_text  # it needs torch, which most tests do without

    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def translator() -> Translator:
    """What a server with the tiny bundle answers, from the library."""
    return Translator(tiny_bundle.bundle_folder(), threads=1)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    """A client of the module's own fixture `server`."""
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of parallel text: $KSERVE_DATA, else ../shared/data beside the checkout, else a skip."""
    given = os.environ.get("KSERVE_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no parallel text at {folder}; set KSERVE_DATA to its folder")
    return folder
