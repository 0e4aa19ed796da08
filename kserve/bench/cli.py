"""The `kserve bench` commands: argument parsing only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kserve.bench.machine import Results, write_results
from kserve.bench.options import names, numbers
from kserve.errors import InvalidParameter, MissingDependency

app = typer.Typer(help="Benchmarks: each checks the answers before it times them.", no_args_is_help=True)

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-m", help="Model folder. [default: KSERVE_MODEL or the bundled one]"),
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the results here.")]
PlotFile = Annotated[Path | None, typer.Option("--plot", help="Also draw them into this PNG.")]
Isa = Annotated[str, typer.Option("--isa", help="Force an instruction set. [default: the best]")]
Label = Annotated[str, typer.Option("--label", help="What is special about this build, for comparisons.")]


@contextmanager
def _needs(extra: str) -> Iterator[None]:
    """A module that is not installed becomes a sentence with the remedy."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this benchmark needs the module {error.name}; install the extra: "
            f"pip install 'kmatrix-serve[{extra}]', or pip install '.[{extra}]' in the source folder"
        ) from None


def _deliver(results: Results, json_file: Path | None, plot: Path | None) -> None:
    if json_file:
        write_results(json_file, results)
    if plot:
        with _needs("bench"):
            from kserve.bench.plots import draw

            draw(results, plot)


@app.command()
def decode(
    bundle: Bundle = None,
    random: Annotated[
        str, typer.Option("--random", help="Random weights in the sizes of `iwslt`, instead of a bundle.")
    ] = "",
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="The bundle's checkpoint; `torch-k` needs it.")
    ] = None,
    src: Annotated[
        Path | None, typer.Option("--src", help="Source sentences, one a line. [default: 20 of its own]")
    ] = None,
    batch: Annotated[str, typer.Option("--batch", help="Sentences in a call; a list.")] = "1",
    beam: Annotated[str, typer.Option("--beam", help="Beam sizes; a list.")] = "1",
    threads: Annotated[str, typer.Option("--threads", help="Threads; a list.")] = "1",
    target_length: Annotated[
        str, typer.Option("--target-length", help="Forced lengths; a list. [default: 0, free; random: 23]")
    ] = "",
    source_length: Annotated[
        int, typer.Option("--source-length", min=2, help="Tokens of a random source, its end included.")
    ] = 23,
    against: Annotated[
        str, typer.Option("--against", help="Rivals; a list, `all`, `none`. [default: what fits the model]")
    ] = "",
    shortlist: Annotated[
        bool,
        typer.Option(
            "--shortlist", help="All look only at tokens listed for the source's. [default: at all]"
        ),
    ] = False,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Different batches in a round.")] = 4,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; the median is shown.")] = 5,
    isa: Isa = "",
    label: Label = "",
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """Decoding speed, latency and memory against rivals. Lists are written with commas: --batch 1,8,32."""
    from kserve.bench import options

    given = options.Given(
        bundle, random, checkpoint, src, batch, beam, threads, target_length, against, shortlist
    )
    with _needs("train,bench"):
        from kserve.bench.records import table

        records = given.run(source_tokens=source_length, calls=calls, repeats=repeats, isa=isa)
    _deliver(Results("decode", records, label), json_file, plot)
    typer.echo(table(records))


@app.command()
def kernel(
    size: Annotated[str, typer.Option("--n", help="Sizes; a list.")] = "64,128,256,512,1024,2048,4096",
    rows: Annotated[str, typer.Option("--rows", help="Rows at once; a list.")] = "1,4,8,32,256",
    isa: Annotated[str, typer.Option("--isa", help="Instruction sets; a list. [default: all]")] = "",
    weights_in: Annotated[str, typer.Option("--weights-in", help="Cache levels; a list.")] = "L1,L2,L3",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timings; the median is shown.")] = 15,
    label: Label = "",
    json_file: JsonFile = None,
    plot: PlotFile = None,
) -> None:
    """The K-matrix multiply against dense ones of the same shape, and against the machine's own limits."""
    from kserve.bench.options import names, numbers

    with _needs("train"):
        from kserve.bench.kernel import KernelPlan, run_kernel, table

        plan = KernelPlan(
            sizes=numbers("--n", size),
            rows=numbers("--rows", rows),
            isas=names(isa),
            weights_in=names(weights_in),
            repeats=repeats,
        )
        records = run_kernel(plan)
    _deliver(Results("kernel", records, label), json_file, plot)
    typer.echo(table(records))


@app.command()
def cuda(
    size: Annotated[str, typer.Option("--n", help="Sizes; a list.")] = "256,512,1024,2048,4096,8192,16384",
    rows: Annotated[str, typer.Option("--rows", help="Rows at once; a list.")] = "1,16,64,256,1024,4096",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; the median is shown.")] = 15,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Let layers on this device choose by what was measured.")
    ] = True,
    json_file: JsonFile = None,
) -> None:
    """The CUDA butterfly against dense products and a copy; sets when layers use it (needs a CUDA device)."""
    from kserve.bench.options import numbers

    with _needs("train"):
        from kserve.bench import cuda as bench
    plan = bench.CudaPlan(numbers("--n", size), numbers("--rows", rows), repeats)
    device = bench.require_device()
    records = bench.run_cuda(plan, device)
    _deliver(Results("cuda", records), json_file, None)
    typer.echo(bench.table(records))
    if save:
        from kserve.config import Settings
        from kserve.cuda.choice import Choice

        choice = Choice(bench.device_name(device), bench.thresholds(records), measured=True)
        typer.echo(f"{choice.save(Settings.read().cache)}: {choice.explain()}")


@app.command()
def page(
    results: Annotated[list[Path], typer.Argument(help="JSON files of the other benchmarks.")],
    out: Annotated[Path, typer.Option("--out", help="The page; its plots lie beside it.")] = Path(
        "docs/benchmarks.md"
    ),
) -> None:
    """Write the page of results and its plots from the JSON files that `--json` wrote."""
    with _needs("bench"):
        from kserve.bench.page import write_page

        write_page(results, out)
    typer.echo(out)


@app.command()
def serve(
    bundle: Bundle = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="Requests to send.")] = 1000,
    starts: Annotated[int, typer.Option("--starts", min=1, help="Server starts to time.")] = 5,
    json_file: JsonFile = None,
) -> None:
    """Start-up, latency and memory of a server process on this machine."""
    from kserve.bench.sentences import GERMAN
    from kserve.bench.serve import run_serve

    record = run_serve(bundle, GERMAN, requests, starts)
    _deliver(Results("serve", [record]), json_file, None)
    typer.echo(
        f"start to /ready {record['ready_seconds']:.2f} s ({record['ready_seconds_min']:.2f} … "
        f"{record['ready_seconds_max']:.2f}), request p50 {record['p50_ms']:.2f} ms, p99 "
        f"{record['p99_ms']:.2f} ms, resident {record['resident_mb']:.0f} MB after "
        f"{record['requests']} requests"
    )


@app.command()
def step(
    recipe: Annotated[Path, typer.Argument(help="Recipe whose sizes are trained.")],
    variants: Annotated[
        str, typer.Option("--variants", help="Linear layers; a list of kmatrix, kmatrix-width-2, dense.")
    ] = "kmatrix,dense",
    threads: Annotated[str, typer.Option("--threads", help="Threads; a list.")] = "1,2",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; the median is shown.")] = 11,
    label: Label = "",
    json_file: JsonFile = None,
) -> None:
    """Seconds of a training step, K-matrices against dense layers; on the CUDA device if there is one."""
    with _needs("train"):
        from kserve.bench.step import VARIANTS, Plan, run_step, table
        from kserve.train.recipe import RecipeError, load_recipe
    chosen = names(variants)
    if not chosen or set(chosen) - set(VARIANTS):
        raise InvalidParameter(f"--variants is {variants!r}; expected some of {', '.join(VARIANTS)}")
    try:
        plan = Plan(load_recipe(recipe), chosen, numbers("--threads", threads), repeats)
    except RecipeError as error:
        raise InvalidParameter(str(error)) from None
    records = run_step(plan)
    _deliver(Results("step", records, label), json_file, None)
    typer.echo(table(records))


@app.command()
def multiply(
    n: Annotated[str, typer.Option("--n", help="Sizes, powers of two; a list.")] = "256,512,1024",
    rows: Annotated[str, typer.Option("--rows", help="Rows; a list.")] = "16,64,256,1024,4096",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Rounds; the median is shown.")] = 7,
    label: Label = "",
    json_file: JsonFile = None,
) -> None:
    """A K-matrix multiplied forward and backward on the CPU, in every way, against plain torch."""
    with _needs("train"):
        from kserve.bench.multiply import run_multiply, table
    records = run_multiply(numbers("--n", n, least=2), numbers("--rows", rows), repeats)
    _deliver(Results("multiply", records, label), json_file, None)
    typer.echo(table(records))
