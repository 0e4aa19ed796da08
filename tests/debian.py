"""Commands of Debian packages that some tests need: installed where that is allowed, else a skip says why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

import pytest

_SECONDS = 240


def command(names: Sequence[str], packages: Sequence[str]) -> str:
    """The path of the first of these commands that there is."""
    if path := _found(names):
        return path
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip(f"there is no {names[0]}; on Debian: apt install {' '.join(packages)}")
    _apt("update", "-q")
    _apt("install", "-qy", "--no-install-recommends", *packages)
    path = _found(names)
    assert path, f"none of the packages {packages} brings {names}"
    return path


def _found(names: Sequence[str]) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def _apt(*arguments: str) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            ["apt-get", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"apt-get {' '.join(arguments)} took longer than {_SECONDS} s")
    if done.returncode:
        pytest.skip(f"apt-get {' '.join(arguments)} failed: {done.stderr[-300:]}")
