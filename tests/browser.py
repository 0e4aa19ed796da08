"""A real Chromium for tests of the pages: the system's own, which Debian's package brings."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_INSTALL = (
    ("apt-get", "update", "-q"),
    ("apt-get", "install", "-qy", "--no-install-recommends", "chromium", "fonts-dejavu-core"),
)
_INSTALL_SECONDS = 240


def _found() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def chromium() -> str:
    """Its path; installed first where this process may do so, else the test is skipped and says why."""
    if path := _found():
        return path
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("there is no Chromium; on Debian: apt install chromium")
    for command in _INSTALL:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{' '.join(command)} took longer than {_INSTALL_SECONDS} s")
        if done.returncode:
            pytest.skip(f"there is no Chromium, and {' '.join(command)} failed: {done.stderr[-300:]}")
    path = _found()
    assert path, "the package chromium brings no command of that name"
    return path


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless browser without a sandbox, for root in a container has none."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
