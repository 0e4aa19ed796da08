"""`kserve info` for a person: the facts of a loaded model as a short table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kserve.config import Settings
from kserve.cuda.choice import Choice
from kserve.cuda.devices import devices
from kserve.cuda.nvcc import CudaUnavailable, compiler, library_file
from kserve.languages import language_name

if TYPE_CHECKING:
    from kserve._engine import LayerForm
    from kserve.translator import Translator

_SCORES = {"bleu": "BLEU", "chrf": "chrF", "ter": "TER"}  # of a text, as they are called


def facts(translator: Translator) -> dict[str, Any]:
    """Everything about the model and the engine that runs it, as plain data."""
    from kserve import _engine

    engine = {
        "isa": translator.isa,
        "available_isas": _engine.available_isas(),
        "threads": translator.threads,
        "workspace_bytes": translator.engine.workspace_bytes,
        "layers": [_layer_facts(form) for form in translator.engine.layer_forms()],
    }
    return {**translator.bundle.describe(), "engine": engine, "training": training_kernels()}


def _layer_facts(form: LayerForm) -> dict[str, Any]:
    """Which kernel runs the layers of one shape."""
    facts: dict[str, Any] = {
        "inputs": form.inputs,
        "outputs": form.outputs,
        "layers": form.layers,
        "sites": form.sites,
        "kind": form.kind,
        "precision": form.precision,
    }
    if form.kind == "kmatrix":
        passes = [{"radix": one.radix, "rows_together": one.rows_together} for one in form.passes]
        facts |= {"square": form.square, "width": form.width, "grid": list(form.grid), "passes": passes}
    return facts


def training_kernels() -> list[dict[str, Any]]:
    """How K-matrices would be multiplied in training, for each CUDA device; none on a machine without one."""
    found = devices()
    if not found:
        return []
    settings = Settings.read()
    try:
        nvcc, obstacle = compiler(settings.nvcc), ""
    except CudaUnavailable as error:
        nvcc, obstacle = None, str(error)
    return [
        {
            "device": device.name,
            "capability": ".".join(map(str, device.capability)),
            "nvcc": nvcc.version if nvcc else None,
            "compiled": bool(nvcc and library_file(nvcc, device.capability, settings.cache).exists()),
            "rule": Choice.load(device.name, settings.cache, obstacle).explain(),
        }
        for device in found
    ]


def table(data: Mapping[str, Any]) -> str:
    """Facts as lines of a label and its text."""
    shape, parameters, engine = data["architecture"], data["parameters"], data["engine"]
    pair = " → ".join(language_name(data["languages"][side]) for side in ("source", "target"))
    rows = [
        ("model", f"{data['name']}, {pair}, {data['path']}"),
        ("architecture", _architecture(shape)),
        ("linear layers", _linear(shape["linear"])),
        ("parameters", _parameters(parameters)),
        ("size", ", ".join(f"{name} {_bytes(size)}" for name, size in data["bytes"].items())),
        ("decoding", ", ".join(f"{name} {value}" for name, value in data["generation"].items())),
        ("shortlist", _shortlist(data)),
        *(("quality", f"{name}: {_quality(value)}") for name, value in data["quality"].items()),
        (
            "engine",
            f"{engine['isa']} (of {', '.join(engine['available_isas'])}), {engine['threads']} threads",
        ),
        *(("kernel", _kernel(layer, engine["isa"])) for layer in engine["layers"]),
        *(("training", text) for text in _training(data["training"])),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {text}" for label, text in rows)


def _architecture(shape: Mapping[str, Any]) -> str:
    encoder, decoder = shape["encoder_kernels"], shape["decoder_kernels"]
    return (
        f"DynamicConv, {len(encoder)} + {len(decoder)} layers, width {shape['d_model']}, feed-forward "
        f"{shape['d_ffn']}, {shape['heads']} heads, kernels {' '.join(map(str, encoder))} + "
        f"{' '.join(map(str, decoder))}, vocabulary {shape['vocab_size']}{', GLU' if shape['glu'] else ''}"
    )


def _linear(sites: Mapping[str, Mapping[str, Any]]) -> str:
    groups: dict[str, list[str]] = {}
    for site, kind in sites.items():
        text = "dense" if kind["precision"] == "float16" else f"dense ({kind['precision']})"
        if kind["kind"] == "kmatrix":
            text = f"K-matrix (width {kind['width']}, expansion {kind['expansion']})"
        groups.setdefault(text, []).append(site)
    if len(groups) == 1:
        return f"{next(iter(groups))} at every site"
    return "; ".join(f"{text}: {', '.join(names)}" for text, names in groups.items())


def _kernel(layer: Mapping[str, Any], isa: str) -> str:
    where = (
        f"{layer['inputs']} → {layer['outputs']} at {', '.join(layer['sites'])} ({layer['layers']} layers): "
    )
    if layer["kind"] == "dense":
        return f"{where}dense {layer['precision']}, panels of 16 outputs, {isa}"
    rows, columns = layer["grid"]
    radix = " ".join(str(one["radix"]) for one in layer["passes"])
    together = " ".join(str(one["rows_together"]) for one in layer["passes"])
    return (
        f"{where}{rows} × {columns} squares of {layer['square']}, passes of radix {radix} with {together} "
        f"rows to a weight, {isa}"
    )


def _parameters(counts: Mapping[str, int]) -> str:
    times = counts["linear_dense"] / max(counts["linear"], 1)
    return (
        f"{counts['total']:,} in all; {counts['linear']:,} in linear layers, where a dense twin has "
        f"{counts['linear_dense']:,} ({times:.1f} times as many)"
    )


def _shortlist(data: Mapping[str, Any]) -> str:
    size, cost = data["architecture"]["shortlist"], data["provenance"].get("shortlist")
    if size is None:
        return "none; `kserve export --shortlist` learns one"
    parts = [
        f"{size['tokens']:,} tokens listed for {data['architecture']['vocab_size']:,} source tokens, "
        f"{size['always']} for any sentence",
        "used unless told otherwise" if data["generation"]["shortlist"] else "used only when asked for",
    ]
    if cost:
        parts += [
            f"BLEU {scores['bleu']:.2f} with it and {scores['bleu_whole']:.2f} without on {text}"
            for text, scores in cost["texts"].items()
        ]
        parts.append(f"a sentence has {cost['listed']:.0f} tokens to choose from")
    return "; ".join(parts)


def _training(devices: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{device['device']} ({device['capability']}), kernels "
        f"{'compiled' if device['compiled'] else 'compiled on first use'}; {device['rule']}"
        for device in devices
    ] or ["on the processor; no CUDA device"]


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"


def _quality(scores: Mapping[str, Any]) -> str:
    """What `kserve eval` found on a text; --json shows all of it."""
    parts = [f"{name} {scores[key]:.1f}" for key, name in _SCORES.items() if key in scores]
    if "sentences_per_second" in scores:
        parts.append(f"{scores['sentences_per_second']:.0f} sentences/s on {scores['threads']} threads")
    twin = f"; its dense twin {_quality(scores['dense_twin'])}" if "dense_twin" in scores else ""
    return ", ".join(parts) + twin
