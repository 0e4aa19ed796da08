"""The CUDA kernels of cpp/cuda as a shared library: compiled by nvcc on first use and kept in a cache folder.

    build(compiler(), (9, 0), Settings.read().cache)     # .../cuda/butterfly-sm90-0f3c….so

The file's name holds a hash of the sources, the compiler and its options: a changed kernel, another compiler
or another device gets a file of its own, and an old one is never used by mistake.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OLDEST_CAPABILITY = (8, 0)  # bfloat16 arithmetic
OPTIONS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC")
_DEFAULT_COMPILER = Path("/usr/local/cuda/bin/nvcc")
_SECONDS = 600


class CudaUnavailable(RuntimeError):
    """The CUDA kernels cannot be compiled, loaded or run here; the message says why and what would help."""


@dataclass(frozen=True)
class Compiler:
    """An nvcc and its version, such as `V13.0.88`."""

    path: Path
    version: str


def source_folder() -> Path:
    """The folder of the kernels' sources: beside an installed package, or in the checkout.

    Raises:
        CudaUnavailable: neither has it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "source", here.parents[1] / "cpp" / "cuda"):
        if (folder / "butterfly.cu").exists():
            return folder
    raise CudaUnavailable(f"the CUDA sources are missing in {here}; install kserve again")


def compiler(given: Path | None = None) -> Compiler:
    """The nvcc that is given, else that of PATH, else that of /usr/local/cuda.

    Raises:
        CudaUnavailable: there is none, or it does not run.
    """
    found = shutil.which("nvcc")
    path = given or (Path(found) if found else _DEFAULT_COMPILER)
    try:
        text = subprocess.run(
            [path, "--version"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise CudaUnavailable(
            f"no CUDA compiler: {path} does not run ({type(error).__name__}); install the CUDA toolkit, put "
            "nvcc on PATH, or set KSERVE_NVCC to it"
        ) from None
    version = re.search(r"V\d+(\.\d+)+", text)
    return Compiler(path, version.group() if version else text.strip())


def library_file(nvcc: Compiler, capability: tuple[int, int], cache: Path) -> Path:
    """Where the library of these sources lies, whether or not it is there already."""
    digest = hashlib.sha256(repr((nvcc.version, OPTIONS)).encode())
    for file in sorted(source_folder().iterdir()):
        if file.suffix in {".cu", ".cpp", ".h"}:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return cache / "cuda" / f"butterfly-sm{capability[0]}{capability[1]}-{digest.hexdigest()[:16]}.so"


def build(nvcc: Compiler, capability: tuple[int, int], cache: Path, extra: Sequence[str] = ()) -> Path:
    """The library for devices of this compute capability, compiled unless the cache has it.

    Written beside its place and renamed: whoever is stopped meanwhile, or compiles at the same time, leaves a
    whole file.

    Args:
        nvcc: The compiler.
        capability: Compute capability of the device, at least 8.0.
        cache: Folder of the cache; made if it is not there.
        extra: More options of the compiler, for checks; they do not change the file's name.

    Raises:
        CudaUnavailable: the device is too old, the compiler failed, or the folder cannot be written.
    """
    if capability < OLDEST_CAPABILITY:
        raise CudaUnavailable(
            f"the CUDA kernels need compute capability {_dotted(OLDEST_CAPABILITY)}; this device has "
            f"{_dotted(capability)}"
        )
    out = library_file(nvcc, capability, cache)
    if not out.exists():
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=out.parent) as draft:
                compile_library(nvcc, capability, Path(draft) / out.name, extra)
                (Path(draft) / out.name).replace(out)
        except OSError as error:
            raise CudaUnavailable(
                f"cannot write the compiled CUDA kernels to {out.parent} ({error.strerror}); set "
                "KSERVE_CACHE to a folder that can be written"
            ) from None
    return out


def compile_library(nvcc: Compiler, capability: tuple[int, int], out: Path, extra: Sequence[str] = ()) -> str:
    """Run the compiler; returns what it printed. Raises CudaUnavailable with its first errors."""
    folder = source_folder()
    command = [
        str(nvcc.path), *OPTIONS, *extra, f"-arch=sm_{capability[0]}{capability[1]}", "-shared",
        str(folder / "butterfly.cu"), str(folder / "plan.cpp"), "-o", str(out),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise CudaUnavailable(f"{nvcc.path} did not run: {error}") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()] or [
            done.stderr.strip()
        ]
        raise CudaUnavailable(
            f"{nvcc.path} ({nvcc.version}) cannot compile the CUDA kernels for compute capability "
            f"{_dotted(capability)}: " + "; ".join(lines[:3])
        )
    return done.stdout + done.stderr


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
