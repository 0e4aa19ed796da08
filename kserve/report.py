"""`kserve info` for a person: the facts of a loaded model as a short table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kserve.languages import language_name

if TYPE_CHECKING:
    from kserve.translator import Translator


def facts(translator: Translator) -> dict[str, Any]:
    """Everything about the model and the engine that runs it, as plain data."""
    from kserve import _engine

    engine = {
        "isa": translator.isa,
        "available_isas": _engine.available_isas(),
        "threads": translator.threads,
        "workspace_bytes": translator.engine.workspace_bytes,
    }
    return {**translator.bundle.describe(), "engine": engine}


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
        *(("quality", f"{name}: {_plain(value)}") for name, value in data["quality"].items()),
        (
            "engine",
            f"{engine['isa']} (of {', '.join(engine['available_isas'])}), {engine['threads']} threads",
        ),
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


def _parameters(counts: Mapping[str, int]) -> str:
    times = counts["linear_dense"] / max(counts["linear"], 1)
    return (
        f"{counts['total']:,} in all; {counts['linear']:,} in linear layers, where a dense twin has "
        f"{counts['linear_dense']:,} ({times:.1f} times as many)"
    )


def _bytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 10_000 else f"{size} bytes"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    return str(value)
