"""A real Chromium for tests of the pages: the system's own, which Debian's package brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import debian
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PACKAGES = ("chromium", "fonts-dejavu-core")


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless browser without a sandbox, for root in a container has none."""
    path = debian.command(_NAMES, _PACKAGES)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
