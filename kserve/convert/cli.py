"""The `kserve convert` commands: argument parsing only; torch is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kserve.errors import MissingDependency

app = typer.Typer(help="Models of other programs as run folders.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Without it Typer would make one command of the only one."""


@app.command()
def fairseq(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of fairseq's lightconv family.")],
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")],
    dictionary: Annotated[Path, typer.Option("--dict", help="Its joined dictionary, dict.LANGUAGE.txt.")],
    sentencepiece: Annotated[
        Path | None, typer.Option("--sentencepiece", help="The SentencePiece model that cut its text.")
    ] = None,
    bpe_codes: Annotated[
        Path | None, typer.Option("--bpe-codes", help="Or the codes of subword-nmt that did.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source language. [default: the checkpoint's]")] = None,
    target: Annotated[str | None, typer.Option(help="Target language. [default: the checkpoint's]")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. [default: the run folder's]")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for the model card.")] = "not told",
    to_k: Annotated[bool, typer.Option("--to-k", help="Project every linear layer onto a K-matrix.")] = False,
    width: Annotated[int, typer.Option(min=1, max=64, help="Width of the K-matrices.")] = 1,
    expansion: Annotated[int, typer.Option(min=1, max=64, help="Their expansion, a power of two.")] = 1,
    fit_steps: Annotated[int, typer.Option(min=0, help="Steps of the projection.")] = 1000,
    recipe: Annotated[
        Path | None, typer.Option(help="Train the result further: text, training and decoding as in this.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Folder of that text; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Tell what was written as JSON.")] = False,
) -> None:
    """fairseq DynamicConv and LightConv checkpoints (needs the extra `train`)."""
    import json

    try:
        from kserve.convert.command import Projection, Request, convert
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this command needs the module {error.name}; install the extra: pip install "
            "'kmatrix-serve[train]', or pip install '.[train]' in the source folder"
        ) from None
    request = Request(
        checkpoint, out, dictionary, sentencepiece, bpe_codes, source, target, name or out.name, licence,
        Projection(width, expansion, fit_steps) if to_k else None, recipe, tuple(data or ()),
    )  # fmt: skip
    outcome = convert(request)
    if as_json:
        typer.echo(json.dumps({"final": str(outcome.final), "missed": outcome.missed}))
        return
    for site, missed in outcome.missed.items():
        typer.echo(f"{site:<10}{missed:6.1%} of the weights' norm is missed by its K-matrices", err=True)
    typer.echo(outcome.final)
