"""Settings from the environment (KSERVE_...): the only Python here that reads it. No global instance.

    Settings.read()                     # environment and defaults
    ServerSettings.read(port=9000)      # an option given on the command line wins

`Settings` is what the library needs; `ServerSettings` adds what only a server has.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from typing_extensions import Self

from kserve.errors import SettingsError

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")

# Lists are written with commas; folders, as in PATH, with colons.
Words = Annotated[tuple[str, ...], NoDecode]
Networks = Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode]
Folders = Annotated[tuple[Path, ...], NoDecode]


def available_cores() -> int:
    """Cores this process may use: its affinity, cut to the control group's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = _quota()
    return max(1, min(cores, math.ceil(quota))) if quota is not None else cores


class Settings(BaseSettings):
    """Everything that can be set from outside; field NAME is read from KSERVE_NAME."""

    model_config = SettingsConfigDict(
        env_prefix="KSERVE_", frozen=True, extra="ignore", protected_namespaces=()
    )

    model: Path | None = Field(None, description="model folder; the bundled model when absent")
    data: Path | None = Field(None, description="folder of parallel text, for training")
    cache: Path = Field(
        Path.home() / ".cache" / "kserve", description="folder for what is compiled or measured on first use"
    )
    nvcc: Path | None = Field(None, description="CUDA compiler, for training; the one on PATH when absent")
    isa: str = Field(
        "", description="instruction set to force: amx, avx512vnni, avx512, avx2 or scalar; the best if empty"
    )
    threads: int = Field(default_factory=available_cores, ge=1, le=1024, description="engine threads")

    @classmethod
    def read(cls, **options: Any) -> Self:
        """Settings from the environment; options that are not None win over it."""
        try:
            return cls(**{name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None


class ServerSettings(Settings):
    """What `kserve serve` can be told. Every limit is finite."""

    models: Folders = Field((), description="model folders, one for each language pair; all bundled ones")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    prefix: str = Field("", pattern=r"^(/[\w.~-]+)*$", description="path that a proxy puts before all others")
    trusted_proxies: Networks = Field((), description="networks whose X-Forwarded-For is believed")
    cors_origins: Words = Field(("*",), description="origins of pages that may call; none if empty")
    docs: bool = Field(True, description="serve /docs and /openapi.json")
    metrics: bool = Field(True, description="serve /metrics")
    web: bool = Field(True, description="serve the pages / and /compare")
    compare: bool = Field(True, description="let /compare make a model's dense twin in memory, when asked")

    keys: Path | None = Field(None, description="file of API keys, as `kserve key` writes it")
    require_key: bool = Field(True, description="with a file of keys: refuse requests without one")

    max_characters: int = Field(20_000, ge=1, description="characters in one text of a request")
    max_request_characters: int = Field(200_000, ge=1, description="characters in all texts of a request")
    max_texts: int = Field(2_000, ge=1, description="texts in one request")
    max_body_bytes: int = Field(
        2_000_000, ge=1, description="bytes of a request body, counted as they arrive"
    )
    max_alternatives: int = Field(10, ge=0, le=63, description="alternatives in one request")
    max_file_bytes: int = Field(10_000_000, ge=1, description="bytes of an uploaded file")
    max_file_characters: int = Field(500_000, ge=1, description="characters of an uploaded file's text")
    max_unpacked_bytes: int = Field(50_000_000, ge=1, description="bytes of a DOCX or ODT when unpacked")
    rate: int = Field(60_000, ge=1, description="texts a minute for each key, or address without one")
    max_requests: int = Field(
        256, ge=1, description="translation requests under way at once, if they are quick enough"
    )
    target_seconds: float = Field(
        0.25, gt=0, description="seconds for a short text; when it takes longer, fewer requests are let in"
    )
    max_queued_tokens: int = Field(50_000, ge=1, description="tokens that may wait for the engine")
    max_connections: int = Field(20_000, ge=1, description="open connections")

    deadline: float = Field(30.0, gt=0, le=3600, description="seconds for a translation")
    file_deadline: float = Field(600.0, gt=0, le=86400, description="seconds for a file")
    file_seconds: float = Field(3600.0, gt=0, description="seconds that a translated file can be fetched")
    max_stored_bytes: int = Field(500_000_000, ge=1, description="bytes of translated files that are kept")
    header_seconds: float = Field(10.0, gt=0, description="seconds for a request's head to arrive")
    body_seconds: float = Field(30.0, gt=0, description="seconds for a request's body to arrive")
    idle_seconds: float = Field(65.0, gt=0, description="seconds that a connection may be idle or unread")
    stop_seconds: float = Field(10.0, gt=0, description="seconds to finish what was accepted, when stopping")

    cache_sentences: int = Field(0, ge=0, description="sentences whose translation is remembered; 0: none")
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="auto: text on a terminal, else JSON"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least that is logged"
    )

    @classmethod
    def options(cls, arguments: Sequence[str]) -> dict[str, str]:
        """Settings as they are typed: --max-texts 100, --max-texts=100, --no-docs.

        Raises:
            SettingsError: an option that is no setting, or has no value.
        """
        given: dict[str, str] = {}
        rest = iter(arguments)
        for argument in rest:
            name, equals, value = argument.removeprefix("--").partition("=")
            field = name.replace("-", "_")
            is_off = field.startswith("no_") and not equals
            kind = cls.model_fields.get(field.removeprefix("no_") if is_off else field)
            if not argument.startswith("--") or kind is None:
                raise SettingsError(
                    f"unknown option {argument}; `kserve serve --print-config` shows all settings"
                )
            if kind.annotation is bool and not equals:
                given[field.removeprefix("no_")] = "false" if is_off else "true"
                continue
            found = value if equals else next(rest, None)
            if found is None:
                raise SettingsError(f"option {argument} has no value; give one, as in {argument} VALUE")
            given[field] = found
        return given

    def shown(self) -> str:
        """All settings as lines of an environment file, each with what it means."""
        lines = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            joined = (
                (os.pathsep if name == "models" else ",").join(map(str, value))
                if isinstance(value, tuple)
                else value
            )
            text = "" if joined is None else str(joined).lower() if isinstance(joined, bool) else str(joined)
            lines.append(f"# {field.description}\n{'' if text else '# '}KSERVE_{name.upper()}={text}")
        return "\n".join(lines)

    @field_validator("models", mode="before")
    @classmethod
    def _folders(cls, value: Any) -> Any:
        return [one for one in value.split(os.pathsep) if one] if isinstance(value, str) else value

    @field_validator("trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return [one.strip() for one in value.split(",") if one.strip()] if isinstance(value, str) else value


def _explain(error: ValidationError) -> str:
    parts = []
    for problem in error.errors():
        name = str(problem["loc"][0])
        parts.append(f"setting {name} (KSERVE_{name.upper()}) is {problem['input']!r}: {problem['msg']}")
    return "; ".join(parts)


def _quota() -> float | None:
    """The control group's limit in cores, or None where there is none."""
    try:
        quota, period = _QUOTA_V2.read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = _QUOTA_V1.read_text().strip(), _PERIOD_V1.read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1") or not quota.isdigit():
        return None
    return int(quota) / int(period)
