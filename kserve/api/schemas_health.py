"""The shapes of what the server says about itself."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Health(BaseModel):
    """The process is alive."""

    status: str = Field(examples=["ok"])
    version: str
    models: list[str] = Field(examples=[["de-en"]])
    isa: str = Field(examples=["avx512vnni"])
    threads: int


class Ready(BaseModel):
    """Whether requests are taken."""

    status: str = Field(examples=["ready"])


SHAPES = (Health, Ready)
