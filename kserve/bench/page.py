"""`kserve bench page`: docs/benchmarks.md and its plots, made of nothing but the JSON files of benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kserve.bench.plots import (
    DECODE_AXES,
    case_text,
    draw_decode,
    draw_kernel,
    draw_memory,
    draw_steps,
    largest_family,
    varied,
)
from kserve.errors import InvalidParameter
from kserve.train import sweep_report

Record = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """One JSON file of a benchmark."""

    name: str
    benchmark: str
    label: str
    machine: Mapping[str, Any]
    records: Sequence[Record]


def write_page(paths: Sequence[Path], out: Path) -> None:
    """Write the page; its pictures go to a folder of the page's name beside it."""
    files = [read_file(path) for path in paths]
    pictures = out.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    sections = [_head(files)]
    decode = _plain_records(files, "decode")
    if decode:
        sections += [_decode_section(decode), *_decode_plots(decode, pictures)]
    sweep = _plain_records(files, "sweep")
    if sweep:
        sweep_report.draw_sweep(sweep, pictures / "sweep.png")
        sections.append(_sweep_section(sweep, f"{pictures.name}/sweep.png"))
    sections += _labelled_section(files, pictures)
    kernel = _plain_records(files, "kernel")
    if kernel:
        draw_kernel(kernel, pictures / "kernel.png")
        sections.append(_kernel_section(kernel, f"{pictures.name}/kernel.png"))
    cuda = _plain_records(files, "cuda")
    if cuda:
        sections.append(_cuda_section(cuda))
    serve = _plain_records(files, "serve")
    if serve:
        sections.append(_serve_section(serve))
    load = _plain_records(files, "load")
    if load:
        sections.append(_load_section(load, f"{pictures.name}/load.png"))
    out.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _plain_records(files: Sequence[File], benchmark: str) -> list[Record]:
    """The records of one benchmark; those with a label stand in a table of their own."""
    return [one for file in files if file.benchmark == benchmark and not file.label for one in file.records]


def read_file(path: Path) -> File:
    """A file that `--json` wrote."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return File(path.name, data["benchmark"], data["label"], data["machine"], data["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidParameter(
            f"{path} is no result of a benchmark ({type(error).__name__}: {error}); expected a file that "
            "`kserve bench ... --json` wrote"
        ) from None


def _head(files: Sequence[File]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `kserve bench page` from the JSON files of `kserve bench`; not edited by hand. Every",
        "answer was checked before it was timed: engines with the same weights gave the same tokens, forced",
        "lengths were kept, products agree with float64. Engines of one run took turns, each in a process of",
        "its own.",
        "",
        "| file | processor | cores | commit | load average |",
        "| --- | --- | --- | --- | --- |",
    ]
    for file in files:
        machine = file.machine
        lines.append(
            f"| {file.name} | {machine['cpu']} | {machine['cores']} | {machine['commit']} | "
            f"{machine['load_average']:.2f} |"
        )
    return "\n".join(lines)


def _decode_section(records: Sequence[Record]) -> str:
    models = {one["model"]: one["model_sha256"][:12] for one in records}
    named = ", ".join(f"{name} (SHA-256 {digest}…)" for name, digest in models.items())
    lines = [
        "## Decoding",
        "",
        f"Models: {named}. Median over the rounds, least and most in brackets; milliseconds of one call;",
        "memory of the engine's whole process. CTranslate2 runs a Transformer of the same sizes, with random",
        "weights and forced lengths.",
        "",
        "| model | batch | beam | threads | length | engine | tokens/s | × | p50 ms | p99 ms | peak MB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = 1.0
    for one in records:
        speed = one["tokens_per_second"]
        base = speed if one["engine"] == "kserve" else base
        name = f"{one['engine']} ({one['isa']})" if one["isa"] else one["engine"]
        name += ", shortlist" if one["shortlist"] else ""
        lines.append(
            f"| {one['model']} | {one['batch']} | {one['beam']} | {one['threads']} | "
            f"{one['target_tokens']:.0f} | {name} | {speed:.0f} ({one['tokens_per_second_min']:.0f} … "
            f"{one['tokens_per_second_max']:.0f}) | {base / speed:.2f} | {one['p50_ms']:.2f} | "
            f"{one['p99_ms']:.2f} | {one['peak_mb']:.0f} |"
        )
    return "\n".join([*lines, "", "×: kserve's speed as a multiple of this engine's, in the same run."])


def _decode_plots(records: Sequence[Record], pictures: Path) -> list[str]:
    parts = []
    for name, axis in DECODE_AXES.items():
        if varied(largest_family(records, axis.key), axis.key):
            draw_decode(records, axis, pictures / f"{name}.png")
            parts.append(_picture(f"Speed against {name}", f"{pictures.name}/{name}.png"))
    case = _commonest_case(records)
    draw_memory(case, pictures / "memory.png")
    parts.append(_picture("Speed against memory", f"{pictures.name}/memory.png"))
    return parts


def _commonest_case(records: Sequence[Record]) -> list[Record]:
    """The records of the case in which most engines and models were timed."""
    cases: dict[tuple[Any, ...], list[Record]] = {}
    for one in records:
        # A length that the model chose differs a little from model to model.
        length = one["target_tokens"] if one["forced_length"] else None
        case = (one["batch"], one["beam"], one["threads"], length, one["shortlist"])
        cases.setdefault(case, []).append(one)
    return max(cases.values(), key=len)


def _sweep_section(records: Sequence[Record], picture: str) -> str:
    lines = [
        "## BLEU",
        "",
        "Models of one recipe that differ in their linear layers; mean of the seeds, least and most in",
        "brackets.",
        "",
        sweep_report.table(records),
        "",
        _picture("Speed against BLEU", picture),
    ]
    return "\n".join(lines)


def _labelled_section(files: Sequence[File], pictures: Path) -> list[str]:
    """What each optimisation bought: runs with a label, in the order in which they were given."""
    labelled = [file for file in files if file.label]
    if not labelled:
        return []
    lines = [
        "## What each step bought",
        "",
        "Builds of one model or one kernel, in order; kserve's own figures.",
        "",
        "| build | commit | case | figure |",
        "| --- | --- | --- | --- |",
    ]
    for file in labelled:
        for one in file.records:
            if one.get("engine", "kserve") == "kserve":
                lines.append(f"| {file.label} | {file.machine['commit']} | {_labelled_case(file, one)} |")
    decode = {file.label: file.records for file in labelled if file.benchmark == "decode"}
    if decode:
        draw_steps(decode, pictures / "steps.png")
        lines += ["", _image("What each step bought", f"{pictures.name}/steps.png")]
    return ["\n".join(lines)]


def _labelled_case(file: File, one: Record) -> str:
    if file.benchmark == "kernel":
        case = f"n {one['n']}, rows {one['rows']}, {one['isa']}, {one['weights_in']}"
        return f"{case} | {one['kmatrix_us']:.2f} µs"
    spread = f"({one['tokens_per_second_min']:.0f} … {one['tokens_per_second_max']:.0f})"
    return f"{case_text(one, 'target_tokens')} | {one['tokens_per_second']:.0f} {spread} tokens/s"


def _kernel_section(records: Sequence[Record], picture: str) -> str:
    lines = [
        "## The K-matrix multiply",
        "",
        "Microseconds of one product on one thread, medians. Dense fp32 is torch's, with the call from",
        "Python in it; in brackets our own. Reading: the weights alone, by the fastest loop; arithmetic:",
        "what the product does with them, in registers alone; both timed in turn with the product. The",
        "floor is whichever takes longer.",
        "",
        "| isa | n | rows | weights in | K-matrix | dense fp32 | dense int8 | reading | arithmetic "
        "| reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in records:
        lines.append(
            f"| {one['isa']} | {one['n']} | {one['rows']} | {one['weights_in']} | {one['kmatrix_us']:.2f} | "
            f"{one['dense_fp32_us']:.2f} ({one['dense_fp32_own_us']:.2f}) | {one['dense_int8_us']:.2f} | "
            f"{one['reading_us']:.3f} | {one['arithmetic_us']:.3f} | {one['share_of_floor']:.0%} |"
        )
    return "\n".join([*lines, "", _image("Time against n", picture)])


def _cuda_section(records: Sequence[Record]) -> str:
    lines = [
        "## The CUDA butterfly",
        "",
        f"On {', '.join(sorted({one['device'] for one in records}))}: microseconds of one product of",
        "bfloat16 rows (forward) or of product and gradients (training), medians of CUDA graphs. Dense has",
        "its weights ready, built makes them from the factors, for eight layers at once up to n = 2048; a",
        "copy of the rows is the floor.",
        "",
        "| n | rows | mode | kernel | bf16 twiddles | dense bf16 | built | factors | copy | reached |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in records:
        times = [one[f"{name}_us"] for name in ("kernel_bf16_twiddles", "dense", "built", "factors", "copy")]
        cells = " | ".join("–" if took is None else f"{took:.1f}" for took in times)
        lines.append(
            f"| {one['n']} | {one['rows']} | {one['mode']} | {one['kernel_us']:.1f} "
            f"({one['kernel_us_min']:.1f} … {one['kernel_us_max']:.1f}) | {cells} | "
            f"{one['share_of_copy']:.0%} |"
        )
    return "\n".join(lines)


def _serve_section(records: Sequence[Record]) -> str:
    lines = [
        "## Serving",
        "",
        "| start to /ready, s | p50 ms | p99 ms | requests | resident MB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in records:
        lines.append(
            f"| {one['ready_seconds']:.2f} | {one['p50_ms']:.2f} | {one['p99_ms']:.2f} | {one['requests']} | "
            f"{one['resident_mb']:.0f} |"
        )
    return "\n".join(lines)


def _load_section(records: Sequence[Record], picture: str) -> str:
    parts = {part: [one for one in records if one["part"] == part] for part in ("curve", *_LOAD_SENTENCES)}
    lines = [
        "## Load",
        "",
        "Written by `make load`: server and users on the same cores, every answer checked.",
    ]
    if parts["curve"]:
        lines += [
            "CTranslate2 runs a Transformer of the same sizes behind FastAPI.",
            "",
            "| engine | sentences/s, single requests | in arrays | resident MB |",
            "| --- | --- | --- | --- |",
        ]
    for one in parts["curve"]:
        single, array = (one[f"saturated_{kind}"] for kind in ("single", "array"))
        lines.append(
            f"| {one['engine']} | {single['median']:.0f} ({single['min']:.0f} … {single['max']:.0f}) | "
            f"{array['median']:.0f} ({array['min']:.0f} … {array['max']:.0f}) | {one['resident_mb']:.0f} |"
        )
    if parts["curve"]:
        lines += ["", _picture("Latency against offered load", picture)]
    for part, sentence in _LOAD_SENTENCES.items():
        for one in parts[part]:
            lines += ["", sentence(one)]
    return "\n".join(lines)


def _overload(one: Record) -> str:
    return (
        f"At {one['offered_per_second']:.0f} requests/s, four times what saturates it, for "
        f"{one['seconds']:.0f} s: {one['accepted']} accepted, p99 {one['p99_ms']:.0f} ms "
        f"({one['after_sending_p99_ms']:.0f} ms without the lateness of the sender, on the same cores); "
        f"{one['refused']} refused with Retry-After; p50 of an idle server "
        f"{one['idle_before']['p50_ms']:.1f} ms before, {one['idle_after']['p50_ms']:.1f} ms after."
    )


def _fairness(one: Record) -> str:
    alone, beside = one["alone"]["p95_ms"], one["beside_arrays"]["p95_ms"]
    return (
        f"Short sentences, p95: {alone:.1f} ms alone, {beside:.1f} ms ({beside / alone:.1f} times) "
        "while another user sends arrays of 1 000."
    )


def _weather(one: Record) -> str:
    return (
        f"{one['restarts']} restarts by SIGTERM, {one['reloads']} reloads, {one['aborts']} "
        f"clients that left: {one['answered']} answers, {sum(one['faults'].values()) or 'none'} lost or "
        "wrong."
    )


def _soak(one: Record) -> str:
    memory = ", ".join(f"{mb:.0f} MB after {count} requests" for count, mb in one["resident_mb"].items())
    return f"Memory: {memory}."


# What is told of each part of `make load` but the curve.
_LOAD_SENTENCES: Mapping[str, Callable[[Record], str]] = {
    "overload": _overload,
    "fairness": _fairness,
    "weather": _weather,
    "soak": _soak,
}


def _picture(title: str, file: str) -> str:
    """An image under a heading of its own."""
    return f"### {title}\n\n{_image(title, file)}"


def _image(title: str, file: str) -> str:
    return f"![{title}]({file})"
