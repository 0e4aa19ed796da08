"""What was typed for a benchmark: lists with commas, and the defaults that depend on one another."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kserve.errors import InvalidParameter


def names(text: str) -> list[str]:
    """`a,b` as a list; an empty text is an empty list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """`1,8,32` as whole numbers, each at least `least`."""
    parts = names(text)
    if not parts or not all(part.isdecimal() and int(part) >= least for part in parts):
        raise InvalidParameter(
            f"{option} is {text!r}; expected whole numbers from {least} on, separated by commas"
        )
    return [int(part) for part in parts]


@dataclass(frozen=True)
class Given:
    """The options of `kserve bench decode` that need thought."""

    bundle: Path | None
    random: str
    checkpoint: Path | None
    src: Path | None
    batch: str
    beam: str
    threads: str
    target_length: str
    against: str
    shortlist: bool

    def run(self, *, source_tokens: int, calls: int, repeats: int, isa: str) -> list[dict[str, Any]]:
        """Time what was asked for; a random model lives as long as that takes."""
        from kserve.bench.decode import Plan, run_decode

        if self.random and (self.bundle or self.checkpoint or self.src):
            raise InvalidParameter("--random makes a model and its sentences; give no --bundle, no --src")
        plan = Plan(
            batches=numbers("--batch", self.batch),
            beams=numbers("--beam", self.beam),
            threads=numbers("--threads", self.threads),
            target_tokens=numbers("--target-length", self.target_length or self._length(), least=0),
            against=self._rivals(),
            source_tokens=source_tokens,
            sentences=self._sentences(),
            calls=calls,
            repeats=repeats,
            isa=isa,
            shortlist=self.shortlist,
        )
        if not self.random:
            return run_decode(self.bundle, plan, self.checkpoint)
        from kserve.bench.random_model import make_random

        with tempfile.TemporaryDirectory(prefix="kserve-random-") as folder:
            model = make_random(self.random, Path(folder))
            return run_decode(model.bundle, plan, model.checkpoint)

    def _length(self) -> str:
        return "23" if self.random else "0"

    def _rivals(self) -> list[str]:
        from kserve.bench.rivals import ENGINES, TORCH

        able = [engine for engine in ENGINES[1:] if not (self.shortlist and engine in TORCH)]
        if self.against == "none":
            return []
        if self.against == "all" or (self.random and not self.against):
            return able
        usual = ("kserve-dense-int8", "kserve-dense-fp32", "torch-dense")
        return names(self.against) or [engine for engine in usual if engine in able]

    def _sentences(self) -> tuple[str, ...]:
        from kserve.bench.sentences import GERMAN

        if self.random:
            return ()
        if self.src is None:
            return GERMAN
        lines = tuple(line for line in self.src.read_text(encoding="utf-8").splitlines() if line.strip())
        if not lines:
            raise InvalidParameter(f"{self.src} holds no sentence; expected one a line")
        return lines
