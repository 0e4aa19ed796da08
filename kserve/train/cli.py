"""`kserve train`, `distill` and `export`: argument parsing only; torch is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kserve.errors import InvalidParameter, KserveError, MissingDependency

TextFolders = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Folder of the text; may be repeated. [default: KSERVE_DATA]"),
]


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    data: TextFolders = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Run folder; an interrupted run there goes on. [default: runs/NAME]"),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Start from these: final.pt of a run, or a model folder."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Threads of each process. [default: torch's]")
    ] = None,
) -> None:
    """Train a model by a recipe (needs the extra `train`); under torchrun, with several processes."""
    try:
        import torch

        from kserve.train.loop import train as run
        from kserve.train.recipe import RecipeError
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    if threads:
        torch.set_num_threads(threads)
    try:
        typer.echo(run(recipe, _folders(data), out, weights))
    except RecipeError as error:
        raise InvalidParameter(str(error)) from None


def distill(
    teacher: Annotated[Path, typer.Argument(help="The teacher's model folder.")],
    files: Annotated[list[str], typer.Argument(help="Text files, without the ending of their language.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for FILE-distilled.SOURCE and .TARGET.")],
    data: TextFolders = None,
    beam: Annotated[int, typer.Option("--beam", min=1, help="Beam size of the teacher.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write a summary here.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Engine threads. [default: all]")] = None,
) -> None:
    """Translate text with a teacher, for a student to learn from (needs the extra `train`).

    An interrupted call goes on where it stopped.
    """
    from kserve.evaluate import write_json
    from kserve.translator import Translator

    try:
        from kserve.train.data import Folders
        from kserve.train.distill import Plan
        from kserve.train.distill import distill as run
        from kserve.train.recipe import RecipeError
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    try:
        folders = Folders(_folders(data))
        summary = run(Plan(Translator(teacher, threads=threads), files, folders, out, beam))
    except RecipeError as error:
        raise InvalidParameter(str(error)) from None
    if json_file:
        write_json(json_file, summary)
    for outcome in summary["files"]:
        typer.echo(", ".join(f"{key} {value}" for key, value in outcome.items() if key != "files"))


def sweep(
    sweep_file: Annotated[Path, typer.Argument(metavar="SWEEP", help="The sweep, a YAML file.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs; what is done there stays.")],
    data: TextFolders = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results here.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw them into this PNG.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads of training.")] = None,
) -> None:
    """Train a recipe in several variants and with several seeds, and score them (extra `train`)."""
    try:
        import torch

        from kserve.bench.machine import Results, write_results
        from kserve.train.recipe import RecipeError
        from kserve.train.sweep import run_sweep
        from kserve.train.sweep_report import draw_sweep, table
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    if threads:
        torch.set_num_threads(threads)
    try:
        records = run_sweep(sweep_file, _folders(data), out)
    except RecipeError as error:
        raise InvalidParameter(str(error)) from None
    if json_file:
        write_results(json_file, Results("sweep", records))
    if plot:
        draw_sweep(records, plot)
    typer.echo(table(records))


def export(
    checkpoint: Annotated[Path, typer.Argument(help="final.pt (or another checkpoint) of a run folder.")],
    out: Annotated[Path, typer.Argument(help="Model folder to write; replaced if it is one already.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="SentencePiece model. [default: that of the run folder]")
    ] = None,
    scores: Annotated[
        list[Path] | None, typer.Option("--scores", help="A JSON file of `kserve eval`; may be repeated.")
    ] = None,
    dense_scores: Annotated[
        list[Path] | None,
        typer.Option("--dense-scores", help="The same of a dense twin, of the same name; may be repeated."),
    ] = None,
    shortlist: Annotated[
        bool, typer.Option("--shortlist", help="Learn which tokens translate which; reads the training text.")
    ] = False,
    shortlist_on: Annotated[
        list[str] | None,
        typer.Option(help="Try it on this text; may be repeated. [default: the recipe's validation text]"),
    ] = None,
    data: TextFolders = None,
    precision: Annotated[
        str,
        typer.Option(help="Of dense layers: float16, float32, or int8, much faster with VNNI or AMX."),
    ] = "float16",
) -> None:
    """Write the model folder of a checkpoint (needs the extra `train`)."""
    try:
        from kserve.train.data import Folders
        from kserve.train.export import ExportError
        from kserve.train.export import export as run
        from kserve.train.recipe import RecipeError
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    try:
        text = Folders(_folders(data)) if shortlist else None
        quality = scores or (), dense_scores or ()
        typer.echo(run(checkpoint, out, tokenizer, *quality, text, shortlist_on or (), precision))
    except (ExportError, RecipeError) as error:
        raise InvalidParameter(str(error)) from None


def _folders(data: list[Path] | None) -> list[Path]:
    from kserve.config import Settings

    folder = Settings.read().data
    folders = data or ([folder] if folder else [])
    if not folders:
        raise InvalidParameter("no folder of parallel text; give --data FOLDER or set KSERVE_DATA")
    return folders


def _missing(error: ModuleNotFoundError) -> KserveError:
    return MissingDependency(
        f"this command needs the module {error.name}; install the extra: pip install "
        "'kmatrix-serve[train]', or "
        "pip install '.[train]' in the source folder"
    )
