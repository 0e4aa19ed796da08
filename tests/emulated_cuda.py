"""The CUDA kernels on the host: the sources of cpp/cuda compiled with the emulator instead of a GPU."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kserve.cuda.nvcc import source_folder
from kserve.kmatrix.butterfly_library import ButterflyLibrary

H100_SHARED = 227 * 1024


class Findings(NamedTuple):
    """What the emulator saw since the last look."""

    races: int
    unwritten: int
    outside: int
    diverged: int
    accesses: int
    wavefronts: int


NOTHING_WRONG = (0, 0, 0, 0)


class EmulatedLibrary(ButterflyLibrary):
    """The C interface on host memory, with a device of any size and a look at what went wrong."""

    def be(self, processors: int, shared_bytes: int = H100_SHARED, log_cluster: int = 3) -> None:
        """Be a device with so many multiprocessors, shared memory and 2^log_cluster blocks in a cluster."""
        self.library.kserve_butterfly_emulate(processors, shared_bytes, log_cluster)

    def findings(self) -> Findings:
        numbers = (ctypes.c_int64 * 6)()
        self.library.kserve_butterfly_findings(numbers)
        return Findings(*numbers)

    def fault(self, number: int) -> Findings:
        """What is found in a kernel of faults.cpp."""
        numbers = (ctypes.c_int64 * 6)()
        self.library.kserve_emulator_fault(number, numbers)
        return Findings(*numbers)


def compile_emulator(out: Path, extra: Sequence[str] = ()) -> Path:
    """Compile the kernels for the host, warnings being errors."""
    folder = source_folder()
    sources = [folder / "plan.cpp", *(folder / "emulator" / name for name in ("emulator.cpp", "faults.cpp"))]
    options = ["-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
    command = [os.environ.get("CXX", "g++"), *options, *extra, "-shared", "-fPIC", *map(str, sources)]
    subprocess.run([*command, "-o", str(out)], check=True)
    return out
