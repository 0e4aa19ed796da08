"""A model folder: read, checked and written. No torch, no engine; docs/design.md, "Bundle", is the
specification.

    bundle = read_bundle(Path("models/de-en"))
    bundle.tensors["embedding.table"].shape     # views of a shared memory map
    bundle.describe()["parameters"]

A folder that is missing something, truncated, changed, of another version or numerically broken is refused,
with the file or tensor, what was found, what was expected and what to do.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kserve.architecture import (
    ModelShape,
    TensorSpec,
    count_parameters,
    expected_tensors,
    flag,
    parse_architecture,
    whole,
)
from kserve.errors import (
    BundleConfigError,
    BundleCorrupt,
    BundleError,
    BundleMissing,
    BundleTensorError,
    BundleVersion,
)
from kserve.tensorfile import Tensors, check_finite, dtype_name, read_tensors, write_tensors

__all__ = ["Bundle", "Generation", "expected_tensors", "read_bundle", "write_bundle"]

FORMAT = "kserve-bundle"
FORMAT_VERSION = 2
CONFIG, MODEL, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.model", "README.md"
_OWN = (CONFIG, MODEL, TOKENIZER, CARD)


@dataclass(frozen=True)
class Generation:
    """How this model is decoded when the caller does not say."""

    beam_size: int
    length_penalty: float
    max_length_ratio: float
    max_length_extra: int
    max_source_tokens: int  # the end token included; longer lines are split
    shortlist: bool  # look only at tokens that may translate the source's


@dataclass(frozen=True)
class Bundle:
    """A checked model folder; the tensors are read-only views of one memory map."""

    path: Path
    name: str
    source_language: str
    target_language: str
    shape: ModelShape
    generation: Generation
    tensors: Tensors
    tokenizer: bytes  # the SentencePiece model
    config: Mapping[str, Any]  # all of config.json, for `provenance` and `quality`

    def describe(self) -> dict[str, Any]:
        """What `kserve info` prints: plain data, ready for JSON."""
        files = {name: (self.path / name).stat().st_size for name in (CONFIG, MODEL, TOKENIZER, CARD)
                 if (self.path / name).exists()}  # fmt: skip
        shape = asdict(self.shape)
        return {
            "name": self.name,
            "path": str(self.path),
            "languages": {"source": self.source_language, "target": self.target_language},
            "architecture": shape,
            "parameters": count_parameters(self.shape),
            "generation": asdict(self.generation),
            "bytes": {**files, "total": sum(files.values())},
            "provenance": self.config.get("provenance", {}),
            "quality": self.config.get("quality", {}),
        }


def read_bundle(path: Path) -> Bundle:
    """Read and check a model folder; raises a `BundleError` that says what is wrong and what to do."""
    if not path.is_dir():
        raise BundleMissing(f"no model folder at {path}; give the folder that holds {CONFIG} and {MODEL}")
    config = _read_config(path)
    shape = parse_architecture(config.get("architecture"))
    _check_files(path, config.get("files"))
    tensors = read_tensors(path / MODEL)
    check_tensors(path / MODEL, shape, tensors)
    languages = _languages(config)
    return Bundle(
        path=path,
        name=str(config.get("name") or path.name),
        source_language=languages[0],
        target_language=languages[1],
        shape=shape,
        generation=_generation(config.get("generation"), shape),
        tensors=tensors,
        tokenizer=(path / TOKENIZER).read_bytes(),
        config=config,
    )


def write_bundle(
    path: Path, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], tokenizer: bytes, card: str
) -> None:
    """Write a model folder in one move: it is complete and checked, or it is not there.

    `format`, `format_version`, `files` and `parameters` of the configuration are filled in here. Files that
    stand beside a model in the folder, such as its recipes, stay.
    """
    kept = _beside_model(path)
    shape = parse_architecture(config.get("architecture"))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        # In the order of the model, so that the engine walks through the file from front to back.
        ordered = {name: tensors[name] for name in expected_tensors(shape) if name in tensors}
        write_tensors(draft / MODEL, {**ordered, **tensors})
        (draft / TOKENIZER).write_bytes(tokenizer)
        (draft / CARD).write_text(card, encoding="utf-8")
        sealed = {**config, "format": FORMAT, "format_version": FORMAT_VERSION}
        sealed["parameters"] = count_parameters(shape)
        sealed["files"] = {name: _fingerprint(draft / name) for name in (MODEL, TOKENIZER)}
        text = json.dumps(sealed, indent=2, ensure_ascii=False) + "\n"
        (draft / CONFIG).write_text(text, encoding="utf-8")
        read_bundle(draft)
        for file in kept:
            shutil.copy2(file, draft)
        draft.chmod(0o755)
        _replace(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_tensors(path: Path, shape: ModelShape, tensors: Tensors) -> None:
    """Names, types, shapes and finite numbers, against what the architecture asks for."""
    wanted = expected_tensors(shape)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise BundleTensorError(
            f"{path}: {len(missing)} tensors are missing, the first is {missing[0]}; the architecture in "
            f"{CONFIG} "
            f"asks for {len(wanted)}. Export the model again."
        )
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise BundleTensorError(
            f"{path}: {len(extra)} tensors do not belong to the architecture in {CONFIG}, the first is "
            f"{extra[0]}. "
            "Export the model again."
        )
    for name, spec in wanted.items():
        _check_tensor(path, name, tensors[name], spec)
    check_finite(path, tensors)


def _check_tensor(path: Path, name: str, array: NDArray[Any], spec: TensorSpec) -> None:
    got = TensorSpec(dtype_name(array), array.shape)
    if got != spec:
        raise BundleTensorError(
            f"{path}: tensor {name} is {got.dtype} {list(got.shape)}; the architecture in {CONFIG} asks for "
            f"{spec.dtype} {list(spec.shape)}. Export the model again."
        )


def _read_config(path: Path) -> Mapping[str, Any]:
    file = path / CONFIG
    if not file.is_file():
        raise BundleMissing(f"{file} is missing; a model folder needs {CONFIG}, {MODEL} and {TOKENIZER}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleCorrupt(f"{file} is not JSON ({error}). Copy the model folder again.") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise BundleConfigError(f"{file} is no {FORMAT!r} configuration: its `format` must say {FORMAT!r}")
    version = config.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleVersion(
            f"{file} has format version {version!r}; this kserve reads version {FORMAT_VERSION}. Export "
            "the model "
            "again with this kserve, or install the kserve that wrote it."
        )
    return config


def _check_files(path: Path, files: Any) -> None:
    """Presence, size and SHA-256 of the files that config.json lists."""
    if not isinstance(files, dict) or set(files) != {MODEL, TOKENIZER}:
        raise BundleConfigError(
            f"{path / CONFIG}: `files` is {files!r}; expected bytes and sha256 of {MODEL} and {TOKENIZER}"
        )
    for name, wanted in files.items():
        file = path / name
        if not file.is_file():
            raise BundleMissing(f"{file} is missing; a model folder needs {CONFIG}, {MODEL} and {TOKENIZER}")
        if not isinstance(wanted, dict) or set(wanted) != {"bytes", "sha256"}:
            raise BundleConfigError(f"{path / CONFIG}: files.{name} is {wanted!r}; expected bytes and sha256")
        size = file.stat().st_size
        if size != wanted["bytes"]:
            raise BundleCorrupt(
                f"{file} has {size} bytes, {CONFIG} says {wanted['bytes']}; it is truncated or belongs to "
                "another "
                "model. Copy the model folder again."
            )
        digest = _fingerprint(file)["sha256"]
        if digest != wanted["sha256"]:
            raise BundleCorrupt(
                f"{file} has SHA-256 {digest}, {CONFIG} says {wanted['sha256']}; its content has changed. "
                "Copy the "
                "model folder again."
            )


def _fingerprint(file: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}


def _languages(config: Mapping[str, Any]) -> tuple[str, str]:
    languages = config.get("languages")
    pair = (languages.get("source"), languages.get("target")) if isinstance(languages, dict) else (None, None)
    if not (isinstance(pair[0], str) and pair[0] and isinstance(pair[1], str) and pair[1]):
        raise BundleConfigError(
            f"config.json: languages is {languages!r}; expected a code for source and for target"
        )
    return pair[0], pair[1]


def _generation(raw: Any, shape: ModelShape) -> Generation:
    if not isinstance(raw, dict):
        raise BundleConfigError(f"config.json: generation is {raw!r}; expected an object with named fields")
    result = Generation(
        beam_size=whole(raw, "generation", "beam_size"),
        length_penalty=_number(raw, "length_penalty"),
        max_length_ratio=_number(raw, "max_length_ratio"),
        max_length_extra=whole(raw, "generation", "max_length_extra", least=0),
        max_source_tokens=whole(raw, "generation", "max_source_tokens", least=2),
        shortlist=flag(raw, "generation", "shortlist"),
    )
    if result.shortlist and shape.shortlist is None:
        raise BundleConfigError(
            "config.json: generation.shortlist is true, and architecture.shortlist tells of none; export "
            "with --shortlist, or make it false"
        )
    if result.max_source_tokens > shape.max_positions:
        raise BundleConfigError(
            f"config.json: generation.max_source_tokens is {result.max_source_tokens}; the model has "
            f"{shape.max_positions} positions (architecture.max_positions)"
        )
    return result


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1000:
        raise BundleConfigError(
            f"config.json: generation.{name} is {value!r}; expected a number from 0 to 1000"
        )
    return float(value)


def _beside_model(path: Path) -> list[Path]:
    """The files in the folder that are not the model's own; refuses a folder that is no place for a model."""
    if not path.exists():
        return []
    others = [] if path.is_file() else [file for file in path.iterdir() if file.name not in _OWN]
    is_model = (path / CONFIG).exists()
    if path.is_file() or not all(file.is_file() and (is_model or file.suffix == ".yaml") for file in others):
        raise BundleError(
            f"{path} exists and is no model folder (nor one of recipes); give a new path or remove it first"
        )
    return others


def _replace(draft: Path, path: Path) -> None:
    """Put the finished draft in place; a folder that was there stays whole until the last moment."""
    if not path.exists():
        draft.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    os.rename(path, old / "replaced")
    draft.rename(path)
    shutil.rmtree(old)
