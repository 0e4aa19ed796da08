"""Settings: defaults, the environment, options over it, and wrong values told by name."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic
import pytest

from kserve.config import Settings, available_cores
from kserve.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("KSERVE_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = Settings.read()
    assert (settings.host, settings.port, settings.isa, settings.model) == ("127.0.0.1", 8000, "", None)
    assert 1 <= settings.threads == available_cores() <= len(os.sched_getaffinity(0))


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSERVE_PORT", "9001")
    monkeypatch.setenv("KSERVE_MODEL", "somewhere")
    assert Settings.read().port == 9001
    assert Settings.read(port=9002, model=None).port == 9002
    assert Settings.read().model == Path("somewhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("THREADS", "0"), ("MAX_TEXTS", "-1"), ("HOST", "")],
)
def test_a_wrong_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"KSERVE_{name}", value)
    with pytest.raises(SettingsError, match=f"KSERVE_{name}.* is {value!r}"):
        Settings.read()


def test_settings_do_not_change() -> None:
    with pytest.raises(pydantic.ValidationError):
        Settings.read().port = 1
