"""A process with one engine in it: its memory and its threads are that engine's alone.

The parent asks several of them in turn, so that all engines are timed on the machine as it is at one time.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kserve.bench.rivals import Answer, Job, Rival, Setting, make_rival
from kserve.errors import KserveError

_STOP_SECONDS = 10.0


class WorkerFailed(KserveError):
    """The process of an engine ended, or answered with an error."""


@dataclass(frozen=True)
class Loaded:
    """What a worker says when it is ready; memory is the process's resident set, in bytes."""

    isa: str
    load_ms: float  # from nothing but imported modules to the first token
    base_bytes: int


@dataclass(frozen=True)
class Timed:
    """Answers of one call, and how long it took."""

    answers: list[Answer]
    seconds: float


class Worker:
    """The parent's end."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self.setting = setting
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(theirs, setting), daemon=True)
        self._process.start()
        theirs.close()
        self.loaded: Loaded = self._receive()

    def decode(self, job: Job) -> Timed:
        """Decode in the worker; the time is the worker's own."""
        timed: Timed = self._ask("decode", job)
        return timed

    def encode(self, source: list[int]) -> Any:
        """The encoder's states of a sentence."""
        return self._ask("encode", source)

    def worst_gap(self, source: list[int], tokens: list[int]) -> float:
        """See Rival.worst_gap."""
        gap: float = self._ask("worst_gap", source, tokens)
        return gap

    def forget_peak(self) -> None:
        """From here on, `peak_bytes` counts anew."""
        self._ask("forget_peak")

    def peak_bytes(self) -> int:
        """The largest resident set since `forget_peak`."""
        peak: int = self._ask("peak_bytes")
        return peak

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            self._pipe.send((name, arguments))
        except OSError as error:
            raise WorkerFailed(f"the process of {self.setting.engine} is gone ({error})") from None
        return self._receive()

    def _receive(self) -> Any:
        try:
            good, value = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(_STOP_SECONDS)
            raise WorkerFailed(
                f"the process of {self.setting.engine} ended with code {self._process.exitcode}; is there "
                "enough memory?"
            ) from None
        if not good:
            raise WorkerFailed(f"{self.setting.engine}: {value}")
        return value


def _run(pipe: Connection, setting: Setting) -> None:
    """The child: load, say so, answer until the pipe closes."""
    try:
        _import_modules(setting)
        base = _resident("VmRSS")
        started = time.perf_counter()
        rival = make_rival(setting)
        rival.decode(Job([[5, 2]], 1, 1))
        load_ms = (time.perf_counter() - started) * 1e3
        pipe.send((True, Loaded(rival.isa, load_ms, base)))
        desk = _Desk(rival)
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        return
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(desk, name)(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


class _Desk:
    """What the parent can ask for."""

    def __init__(self, rival: Rival) -> None:
        self.rival = rival
        self.encode, self.worst_gap = rival.encode, rival.worst_gap

    def decode(self, job: Job) -> Timed:
        started = time.perf_counter()
        answers = self.rival.decode(job)
        return Timed(answers, time.perf_counter() - started)

    def forget_peak(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def peak_bytes(self) -> int:
        return _resident("VmHWM")


def _import_modules(setting: Setting) -> None:
    """What an engine imports counts neither as load time nor as memory of the model."""
    if setting.engine.startswith("torch"):
        import kserve.train.restore
    elif setting.engine.startswith("ctranslate2"):
        # It imports torch where it finds it, only to convert models; who serves with it has none.
        sys.modules["torch"] = None  # type: ignore[assignment]
        import ctranslate2  # noqa: F401
    else:
        import kserve.translator  # noqa: F401


def _resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
