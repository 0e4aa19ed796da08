"""What a figure must be read with: the machine, the versions, and how to sum up repeated timings."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kserve import _engine


def machine() -> dict[str, Any]:
    """Processor, cores, instruction sets, versions and the commit of the checkout, if it is one."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "available_isas": _engine.available_isas(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_average": os.getloadavg()[0],  # timings on a busy machine say little
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median with the least and the greatest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Results:
    """The records of one run, which benchmark made them, and what was special about the build."""

    benchmark: str
    records: Sequence[Mapping[str, Any]]
    label: str = ""


def write_results(path: Path, results: Results) -> None:
    """Write `{"machine": ..., "benchmark": ..., "label": ..., "results": [...]}`."""
    data = {
        "machine": machine(),
        "benchmark": results.benchmark,
        "label": results.label,
        "results": list(results.records),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
