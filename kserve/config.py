"""Settings from the environment (KSERVE_...): the only Python here that reads it. No global instance.

Settings.read()                     # environment and defaults
Settings.read(port=9000)            # an option given on the command line wins
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from kserve.errors import SettingsError

_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


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
        "", description="instruction set to force: avx512vnni, avx512, avx2 or scalar; the best if empty"
    )
    threads: int = Field(default_factory=available_cores, ge=1, le=1024, description="engine threads")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    max_characters: int = Field(20_000, ge=1, description="characters in one text of a request")
    max_request_characters: int = Field(100_000, ge=1, description="characters in all texts of a request")
    max_texts: int = Field(500, ge=1, description="texts in one request")
    max_body_bytes: int = Field(
        2_000_000, ge=1, description="bytes of a request body, counted before parsing"
    )
    max_alternatives: int = Field(10, ge=0, le=64, description="alternatives in one request")
    queue_size: int = Field(64, ge=1, description="requests that may wait for the engine")

    @classmethod
    def read(cls, **options: Any) -> Settings:
        """Settings from the environment; options that are not None win over it."""
        try:
            return cls(**{name: value for name, value in options.items() if value is not None})
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    parts = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
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
