"""Dense twins as model folders, for engines that run in processes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kserve.bundle import Bundle, write_bundle
from kserve.twin import dense_twins


def write_twins(bundle: Bundle, files: Mapping[str, Path]) -> None:
    """Write bundles whose linear layers are all dense; `files` maps precisions to folders."""
    for precision, twin in dense_twins(bundle, list(files)).items():
        origin = f"The dense twin of {bundle.name}: the same weights, multiplied out, for benchmarks."
        card = f"# {twin.name}\n\n{origin}\n"
        write_bundle(files[precision], twin.config, twin.tensors, twin.tokenizer, card)
