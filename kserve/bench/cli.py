"""The `kserve bench` commands: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kserve.errors import MissingDependency

app = typer.Typer(help="Benchmarks: each checks the answers before it times them.", no_args_is_help=True)

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-m", help="Model folder. [default: KSERVE_MODEL or the bundled one]"),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the results here.")]


@app.command()
def decode(
    bundle: Bundle = None,
    src: Annotated[
        Path | None, typer.Option("--src", help="Source sentences, one a line. [default: 20 of its own]")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; the median is shown.")] = 5,
    isa: Annotated[str, typer.Option("--isa", help="Force avx512vnni, avx512, avx2 or scalar.")] = "",
    json_file: JsonFile = None,
) -> None:
    """Greedy decoding on one thread, a sentence at a time, against the same weights in torch."""
    try:
        from kserve.bench.decode import Plan, run_decode, table
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this benchmark needs the module {error.name}; install the extra: "
            "pip install 'kmatrix-serve[train]', or pip install '.[train]' in the source folder"
        ) from None
    from kserve.bench.machine import write_results
    from kserve.bench.sentences import GERMAN

    sentences = GERMAN if src is None else tuple(src.read_text(encoding="utf-8").splitlines())
    records = run_decode(bundle, Plan(sentences, repeats, isa))
    if json_file:
        write_results(json_file, records)
    typer.echo(table(records))


@app.command()
def serve(
    bundle: Bundle = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests to send.")] = 1000,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Server starts to time.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Start-up, latency and memory of a server process on this machine."""
    from kserve.bench.machine import write_results
    from kserve.bench.sentences import GERMAN
    from kserve.bench.serve import run_serve

    record = run_serve(bundle, GERMAN, requests, starts)
    if json_file:
        write_results(json_file, [record])
    typer.echo(
        f"start to /ready {record['ready_seconds']:.2f} s ({record['ready_seconds_min']:.2f} … "
        f"{record['ready_seconds_max']:.2f}), request p50 {record['p50_ms']:.2f} ms, p99 "
        f"{record['p99_ms']:.2f} ms, resident {record['resident_mb']:.0f} MB after "
        f"{record['requests']} requests"
    )
