"""Settings: defaults, the environment, options over it, and wrong values told by name."""

from __future__ import annotations

import os
from pathlib import Path

import pydantic
import pytest

from kserve.config import ServerSettings, Settings, available_cores
from kserve.errors import SettingsError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("KSERVE_"):
            monkeypatch.delenv(name)


def test_defaults() -> None:
    settings = ServerSettings.read()
    assert (settings.host, settings.port, settings.isa, settings.model) == ("127.0.0.1", 8000, "", None)
    assert 1 <= settings.threads == available_cores() <= len(os.sched_getaffinity(0))


def test_an_option_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSERVE_PORT", "9001")
    monkeypatch.setenv("KSERVE_MODEL", "somewhere")
    assert ServerSettings.read().port == 9001
    assert ServerSettings.read(port=9002, model=None).port == 9002
    assert Settings.read().model == Path("somewhere")


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "http"), ("PORT", "70000"), ("THREADS", "0"), ("MAX_TEXTS", "-1"), ("HOST", "")],
)
def test_a_wrong_value_names_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"KSERVE_{name}", value)
    with pytest.raises(SettingsError, match=f"KSERVE_{name}.* is {value!r}"):
        ServerSettings.read()


def test_settings_do_not_change() -> None:
    with pytest.raises(pydantic.ValidationError):
        ServerSettings.read().port = 1


def test_lists_are_written_with_commas_and_folders_with_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSERVE_TRUSTED_PROXIES", "10.0.0.0/8, ::1")
    monkeypatch.setenv("KSERVE_MODELS", "a/b:c")
    settings = ServerSettings.read()
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.models == (Path("a/b"), Path("c"))
    monkeypatch.setenv("KSERVE_TRUSTED_PROXIES", "somewhere")
    with pytest.raises(SettingsError, match="KSERVE_TRUSTED_PROXIES"):
        ServerSettings.read()


def test_every_setting_is_an_option() -> None:
    given = ServerSettings.options(["--max-texts", "7", "--rate=9", "--no-docs", "--metrics"])
    settings = ServerSettings.read(**given)
    assert (settings.max_texts, settings.rate, settings.docs, settings.metrics) == (7, 9, False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--colour", "red"], "unknown option --colour"),
        (["stray"], "unknown option stray"),
        (["--max-texts"], "--max-texts has no value"),
    ],
)
def test_options_that_are_none(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ServerSettings.options(arguments)


def test_what_is_shown_can_be_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServerSettings.read(
        max_texts=7, docs=False, models=[Path("a"), Path("b")], cors_origins=["x", "y"]
    )
    for line in settings.shown().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            monkeypatch.setenv(name, value)
    assert ServerSettings.read() == settings


def test_every_limit_is_finite_by_default() -> None:
    settings = ServerSettings.read()
    for name, field in ServerSettings.model_fields.items():
        if name.startswith("max_") or name.endswith(("_seconds", "deadline", "rate")):
            assert 0 <= getattr(settings, name) < 1e12, name
            assert field.description
