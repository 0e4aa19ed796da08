"""The engine built with AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, under its tests.

Each build goes beside a copy of the package, and a second Python runs tests on it with the sanitizer's
run-time loaded first: they decode alone and in batches, from several threads, cancel, fail and shut down.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 1200  # seconds for a build or a run, on a busy machine

pytestmark = pytest.mark.proof  # it builds the engine twice


@dataclass(frozen=True)
class Sanitizer:
    """What to build with, what must be in memory first, how it is set, and what must be in the code."""

    flags: str
    runtime: str
    options: dict[str, str]
    mark: bytes


ADDRESS = Sanitizer(
    "address,undefined",
    "libasan.so",
    # The interpreter keeps memory until its end. What either finds ends the process with this code.
    {
        "ASAN_OPTIONS": "detect_leaks=0:exitcode=66",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    },
    b"__asan_report_load",
)
THREAD = Sanitizer(
    "thread",
    "libtsan.so",
    {"TSAN_OPTIONS": f"halt_on_error=1:exitcode=66:suppressions={ROOT / 'tests' / 'thread_sanitizer.txt'}"},
    b"__tsan_read",
)
BATCHING = "tests/test_batching.py"
SEARCHES = [
    "tests/test_shortlist.py",
    "tests/test_batcher.py",
    "tests/test_control.py",
    "tests/test_engine_errors.py",
    f"{BATCHING}::test_calls_from_several_threads_do_not_mix",
    f"{BATCHING}::test_dense_model_is_batch_invariant",
]
KERNELS = ["tests/test_rank.py", "tests/test_kernels.py", "tests/test_dense.py"]
THREADED = [
    "tests/test_batcher.py",
    "tests/test_control.py",
    f"{BATCHING}::test_calls_from_several_threads_do_not_mix",
]
# Searches take one path of several: instrumented code is slow, and the kernels have tests of their own.
# Memory that a sanitizer keeps back says nothing about memory that is kept.
ONE_PATH = "not scalar and not avx512 and not amx and not nothing_is_kept"
SMALL = "not ten_thousand"


def runtime_of(sanitizer: Sanitizer) -> Path:
    """The sanitizer's shared library of this compiler, or a skip with the reason."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None or shutil.which("cmake") is None:
        pytest.skip(f"needs {compiler} and cmake")
    file = library(sanitizer.runtime)
    if not file.is_absolute():
        pytest.skip(f"{compiler} has no {sanitizer.runtime}")
    return file


def library(name: str) -> Path:
    """A library of the compiler, or its bare name where there is none."""
    command = [os.environ.get("CXX", "c++"), f"-print-file-name={name}"]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def build(sanitizer: Sanitizer, folder: Path) -> Path:
    """A tree of package and tests whose extension module is built with the sanitizer."""
    tree = folder / "tree"
    leave = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "kserve", tree / "kserve", ignore=leave)
    shutil.copytree(ROOT / "tests", tree / "tests", ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", tree)
    settings = {
        "Python_EXECUTABLE": sys.executable,
        "KSERVE_SANITIZE": sanitizer.flags,
        "KSERVE_OUTPUT": tree / "kserve",
    }
    defined = [f"-D{name}={value}" for name, value in settings.items()]
    run(["cmake", "-S", ROOT, "-B", folder / "build", *defined], folder)
    run(["cmake", "--build", folder / "build", "--parallel", str(os.cpu_count())], folder)
    (module,) = (tree / "kserve").glob("_engine*.so")
    assert sanitizer.mark in module.read_bytes(), "the extension module is not instrumented"
    return tree


def run(command: list[str | Path], folder: Path, environment: dict[str, str] | None = None) -> str:
    """What a command printed; it must end well."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, f"code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[:8000]}"
    return done.stdout


def python(sanitizer: Sanitizer, tree: Path) -> tuple[list[str | Path], dict[str, str]]:
    """A Python, and its environment, that imports the tree's package and not one that is installed."""
    places = [tree, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    environment = {
        **os.environ,
        **sanitizer.options,
        # The sanitizer looks for what throws exceptions when it starts; Python itself has no need of it.
        "LD_PRELOAD": f"{runtime_of(sanitizer)} {library('libstdc++.so')}",
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    # Addresses chosen at random may lie where ThreadSanitizer keeps its own memory.
    fixed: list[str | Path] = ["setarch", platform.machine(), "--addr-no-randomize"]
    # -S: no .pth files, which lead to an installed package.
    return [*(fixed if shutil.which("setarch") else []), sys.executable, "-S"], environment


def run_tests(sanitizer: Sanitizer, tree: Path, tests: list[str], chosen: str) -> None:
    interpreter, environment = python(sanitizer, tree)
    where = run([*interpreter, "-c", "import kserve._engine as e; print(e.__file__)"], tree, environment)
    assert where.startswith(str(tree))
    # Nothing captured, or the report of a find would be lost with the process.
    options = ["-x", "-q", "-s", "-p", "no:cacheprovider", "-m", "not proof", "-k", chosen]
    told = run([*interpreter, "-m", "pytest", *options, *tests], tree, environment)
    assert " passed" in told


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime_of(ADDRESS)
    return build(ADDRESS, tmp_path_factory.mktemp("address"))


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runtime_of(THREAD)
    return build(THREAD, tmp_path_factory.mktemp("thread"))


def test_a_wrong_access_would_be_found(address: Path) -> None:
    interpreter, environment = python(ADDRESS, address)
    wrong = "import ctypes; ctypes.string_at(ctypes.create_string_buffer(8), 4096)"
    done = subprocess.run(
        [*interpreter, "-c", wrong], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 66
    assert "heap-buffer-overflow" in done.stderr


def test_searches_stay_within_their_memory(address: Path) -> None:
    run_tests(ADDRESS, address, SEARCHES, ONE_PATH)


def test_kernels_stay_within_their_memory(address: Path) -> None:
    run_tests(ADDRESS, address, KERNELS, SMALL)


def test_threads_do_not_race(thread: Path) -> None:
    run_tests(THREAD, thread, THREADED, ONE_PATH)
