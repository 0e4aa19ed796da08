"""The `kserve prepare` commands: argument parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kserve.errors import MissingDependency

app = typer.Typer(help="Public corpora as the text files that recipes read.", no_args_is_help=True)


@app.callback()
def _commands() -> None:
    """Without it Typer would make one command of the only one."""


@app.command()
def iwslt14(
    source: Annotated[
        Path, typer.Option("--from", help="The official archive de-en.tgz, or the folder it was unpacked to.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the files to write.")],
    keep_case: Annotated[
        bool, typer.Option("--keep-case", help="Keep capital letters; published results are lowercased.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Tell what was written as JSON.")] = False,
) -> None:
    """IWSLT 2014 German-English: the standard training, validation and test pairs, detokenised."""
    import json

    try:
        from kserve.prepare.iwslt14 import prepare

        summary = prepare(source, out, keep_case)
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"this command needs the module {error.name}; install the extra: pip install "
            "'kmatrix-serve[train]', or pip install '.[train]' in the source folder"
        ) from None
    typer.echo(json.dumps(summary.as_dict(), indent=2) if as_json else summary.table())
