"""The `kserve` command: argument parsing only; every command imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    import io

    from kserve.results import Decoding

from kserve.bench.cli import app as bench
from kserve.convert.cli import app as convert
from kserve.errors import InputError, InvalidParameter, KserveError, SettingsError
from kserve.prepare.cli import app as prepare
from kserve.train import cli as training

app = typer.Typer(
    help="Machine translation on CPUs with K-matrix models.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(bench, name="bench")
app.add_typer(convert, name="convert")
app.add_typer(prepare, name="prepare")
for training_command in (training.train, training.distill, training.sweep, training.export):
    app.command()(training_command)

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-m", help="Model folder. [default: KSERVE_MODEL or the bundled one]"),
]
Isa = Annotated[
    str | None,
    typer.Option(
        "--isa", help="Force amx, avx512vnni, avx512, avx2 or scalar. [default: KSERVE_ISA or the best]"
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Engine threads. [default: KSERVE_THREADS or all cores]")
]
Beam = Annotated[int | None, typer.Option("--beam", help="Beam size; 1 is greedy. [default: the model's]")]

LengthPenalty = Annotated[
    float | None, typer.Option("--length-penalty", help="Exponent of the length. [default: the model's]")
]
CoveragePenalty = Annotated[
    float | None, typer.Option("--coverage-penalty", help="Weight of source tokens left out. [default: 0]")
]
MaxLength = Annotated[int | None, typer.Option("--max-length", help="Most tokens of a sentence.")]
MinLength = Annotated[int | None, typer.Option("--min-length", help="Fewest tokens of a sentence.")]
NoRepeat = Annotated[
    int | None, typer.Option("--no-repeat-ngram", help="No sequence of so many tokens comes twice.")
]
Repetition = Annotated[
    float | None, typer.Option("--repetition-penalty", help="1 to 100: dearer what has come before.")
]
LoopGuard = Annotated[
    int | None, typer.Option("--loop-guard", help="End what repeats itself so often in a row; 4 is safe.")
]
Prefix = Annotated[str | None, typer.Option("--prefix", help="What every translation begins with.")]
Shortlist = Annotated[
    bool | None,
    typer.Option(
        "--shortlist/--no-shortlist",
        help="Choose among tokens that may translate the source's. [default: the model's]",
    ),
]
Suppress = Annotated[
    list[str] | None, typer.Option("--suppress", help="A piece that never comes; may be repeated.")
]


@app.command()
def translate(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts; lines of stdin when absent.")] = None,
    bundle: Bundle = None,
    beam: Beam = None,
    n_best: Annotated[int, typer.Option("--n-best", help="Translations of each line; needs --json.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    length_penalty: LengthPenalty = None,
    coverage_penalty: CoveragePenalty = None,
    max_length: MaxLength = None,
    min_length: MinLength = None,
    no_repeat_ngram: NoRepeat = None,
    repetition_penalty: Repetition = None,
    loop_guard: LoopGuard = None,
    prefix: Prefix = None,
    shortlist: Shortlist = None,
    suppress: Suppress = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="Translate a .docx .odt .html .md .srt or .txt file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to. [default: beside it, NAME.LANGUAGE.ENDING]")
    ] = None,
    isa: Isa = None,
    threads: Threads = None,
) -> None:
    """Translate texts, a file, or stdin to stdout: a line in, a line out."""
    if n_best > 1 and not as_json:
        raise InvalidParameter(f"--n-best is {n_best}; more than one translation of a line needs --json")
    decoding: Decoding = {
        "beam_size": beam,
        "n_best": n_best,
        "length_penalty": length_penalty,
        "coverage_penalty": coverage_penalty,
        "max_length": max_length,
        "min_length": min_length,
        "no_repeat_ngram": no_repeat_ngram,
        "repetition_penalty": repetition_penalty,
        "loop_guard": loop_guard,
        "prefix": prefix,
        "shortlist": shortlist,
        "suppress": suppress,
    }
    if file:
        from kserve.lines import translate_file
        from kserve.translator import Translator

        typer.echo(translate_file(Translator(bundle, isa, threads), file, out, decoding))
        return
    _translate_lines((bundle, isa, threads), texts, decoding, as_json)


def _translate_lines(
    model: tuple[Path | None, str | None, int | None],
    texts: list[str] | None,
    decoding: Decoding,
    as_json: bool,
) -> None:
    from kserve.lines import LineTranslator, progress_stream
    from kserve.translator import Translator

    translator = Translator(*model)
    translator.options(**decoding)  # what is impossible is told before anything is read
    job = LineTranslator(translator, decoding, as_json)
    if texts:
        job.write(texts, sys.stdout.buffer)
        return
    job.progress = progress_stream()
    broken = job.run(cast("io.BufferedReader", sys.stdin.buffer), sys.stdout.buffer)
    if broken:
        typer.echo(
            f"kserve: {broken} lines held bytes that are not UTF-8; they were read as U+FFFD", err=True
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address. [default: KSERVE_HOST or 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one. [default: KSERVE_PORT or 8000]")
    ] = None,
    bundles: Annotated[
        list[Path] | None,
        typer.Option(
            "--bundle", "-m", help="Model folder; repeat it for more pairs. [default: KSERVE_MODELS or all]"
        ),
    ] = None,
    isa: Isa = None,
    threads: Threads = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print all settings, with what they mean, and stop.")
    ] = False,
) -> None:
    """Serve translations over HTTP; the page /docs describes the requests.

    Every setting that --print-config shows is also an option: KSERVE_MAX_TEXTS is --max-texts 100.
    """
    from kserve.config import ServerSettings

    given = {"host": host, "port": port, "models": bundles or None, "isa": isa, "threads": threads}
    settings = ServerSettings.read(**ServerSettings.options(context.args), **given)
    if print_config:
        typer.echo(settings.shown())
        return
    from kserve.api.server import run

    run(settings)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[
        Path | None, typer.Option("--file", help="Append its line to this file. [default: KSERVE_KEYS]")
    ] = None,
) -> None:
    """Make an API key: it is printed once, and the file gets its hash."""
    from kserve.api.access import add_key
    from kserve.config import ServerSettings

    path = file or ServerSettings.read().keys
    if path is None:
        raise InvalidParameter("no file of keys; give --file FILE or set KSERVE_KEYS")
    typer.echo(add_key(path, name))


@app.command()
def info(
    bundle_argument: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="Model folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    isa: Isa = None,
) -> None:
    """Print a model's architecture, parameters, sizes, quality, and the kernel in use."""
    import json

    from kserve.report import facts, table
    from kserve.translator import Translator

    data = facts(Translator(bundle_argument, isa))
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False) if as_json else table(data))


@app.command("eval")
def evaluate_command(
    src: Annotated[Path, typer.Option("--src", help="Source text, a sentence a line.")],
    ref: Annotated[Path, typer.Option("--ref", help="Its reference translation.")],
    bundle: Bundle = None,
    beam: Beam = None,
    shortlist: Shortlist = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
    isa: Isa = None,
    threads: Threads = None,
) -> None:
    """Score a model on a test set: BLEU, chrF, TER and sentences per second, decoded by the engine."""
    from kserve.evaluate import evaluate, read_test_set, summary, write_json
    from kserve.translator import Translator

    test = read_test_set(src, ref)
    decoding: Decoding = {"beam_size": beam, "shortlist": shortlist}
    result = evaluate(Translator(bundle, isa, threads), test, decoding)
    if json_file:
        write_json(json_file, result)
    typer.echo(summary(result))


def main(arguments: list[str] | None = None) -> None:
    """Run the command; an error is one line on stderr and exit code 2 (what was asked) or 1 (the rest)."""
    options: dict[str, Any] = {} if arguments is None else {"args": arguments}
    try:
        app(prog_name="kserve", **options)
    except KserveError as error:
        typer.echo(f"kserve: error: {error}", err=True)
        raise SystemExit(2 if isinstance(error, (InputError, SettingsError)) else 1) from None
