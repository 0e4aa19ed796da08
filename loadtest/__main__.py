"""`make load`: the figures of a server under load, as JSON, and a plot of latency against offered load."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from kserve.bench.machine import Results, write_results
from loadtest import curve, trials
from loadtest.offline import Offline

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
SENTENCES = 1_500  # different ones
PARTS = ("curve", "overload", "fairness", "weather", "soak")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    part: Annotated[list[str] | None, typer.Option(help=f"What to measure: {', '.join(PARTS)}.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model folder; the bundled model if absent.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Length of a step; an overload lasts ten.")] = 6,
    requests: Annotated[int, typer.Option(min=1_000, help="Requests of the soak.")] = 100_000,
    out: Annotated[Path, typer.Option(help="Folder of load.json, load.png and soak.json.")] = RESULTS,
) -> None:
    """Load kserve and, for the curve, CTranslate2 behind FastAPI; every answer is checked."""
    wanted = part or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        raise typer.BadParameter(f"{', '.join(unknown)}: expected {', '.join(PARTS)}")
    offline = Offline.of(bundle, SENTENCES)
    with tempfile.TemporaryDirectory(prefix="kserve-load-") as name:
        folder = Path(name)
        measures: dict[str, Callable[[], Any]] = {
            "curve": lambda: curve.measure(offline, curve.Plan(seconds), folder),
            "overload": lambda: trials.overload(offline, 10 * seconds, folder),
            "fairness": lambda: trials.fairness(offline, 2 * seconds),
            "weather": lambda: trials.bad_weather(offline, 5 * seconds),
            "soak": lambda: trials.soak(offline, (1_000, requests)),
        }
        records: list[dict[str, Any]] = []
        for one in wanted:
            typer.echo(f"{one} …", err=True)
            found = measures[one]()
            records += [{"part": one, **record} for record in (found if isinstance(found, list) else [found])]
            _write(records, out)  # after each part: the next one may take long, and be broken off
    for record in records:
        typer.echo({name: value for name, value in record.items() if name != "steps"})
    lost = [record for record in records if record.get("faults")]
    sys.exit(f"wrong answers or errors: {[record['faults'] for record in lost]}" if lost else 0)


def _write(records: Sequence[dict[str, Any]], out: Path) -> None:
    """What was measured. The soak lasts long and times nothing: the rest can be measured again without it."""
    for name, is_soak in (("load", False), ("soak", True)):
        if found := [one for one in records if (one["part"] == "soak") == is_soak]:
            write_results(out / f"{name}.json", Results("load", found))
    if engines := [one for one in records if one["part"] == "curve"]:
        curve.draw(engines, out / "load.png")


if __name__ == "__main__":
    app()
