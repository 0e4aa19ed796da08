"""Reading, checking and writing model folders: everything that may be wrong with one is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from safetensors.numpy import load_file

from kserve.architecture import count_parameters, expected_tensors, parse_architecture
from kserve.bundle import CONFIG, MODEL, TOKENIZER, read_bundle, write_bundle
from kserve.errors import (
    BundleConfigError,
    BundleCorrupt,
    BundleError,
    BundleMissing,
    BundleTensorError,
    BundleVersion,
)
from kserve.tensorfile import ALIGNMENT, read_tensors, write_tensors


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A good bundle that the test damages."""
    return tiny_bundle.copy_to(tmp_path / "broken")


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    settings = tiny_bundle.config()
    weights = tiny_bundle.tensors(settings)
    write_bundle(tmp_path / "model", settings, weights, tiny_bundle.tokenizer_model(), "# Card\n")
    bundle = read_bundle(tmp_path / "model")
    assert bundle.tensors.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(bundle.tensors[name], array)
    assert bundle.tokenizer == tiny_bundle.tokenizer_model()
    assert (bundle.name, bundle.source_language, bundle.target_language) == ("tiny-de-en", "de", "en")
    assert bundle.generation.beam_size == 2


def test_tensors_are_read_only_aligned_views_of_one_map() -> None:
    tensors = read_bundle(tiny_bundle.bundle_folder()).tensors
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in tensors.values())
    assert not any(array.flags.writeable or array.flags.owndata for array in tensors.values())


@pytest.mark.parametrize("kind", ["kmatrix", "dense"])
def test_the_safetensors_library_reads_the_same(tmp_path: Path, kind: str) -> None:
    path = tiny_bundle.write(tmp_path / "model", kind) / MODEL
    theirs = load_file(path)
    for name, array in read_tensors(path).items():
        np.testing.assert_array_equal(theirs[name], array)


@pytest.mark.parametrize("size", [1, 15, 16, 17, 64, 129])
def test_odd_sizes_stay_aligned(tmp_path: Path, size: int) -> None:
    content = {name: np.arange(size).astype(kind) for name, kind in (("a", "i1"), ("b", "<f4"), ("c", "<f2"))}
    write_tensors(tmp_path / MODEL, content)
    read = read_tensors(tmp_path / MODEL)
    assert list(read) == ["a", "b", "c"]
    assert all(read[name].ctypes.data % ALIGNMENT == 0 for name in read)
    assert set(load_file(tmp_path / MODEL)) >= {"a", "b", "c"}


def test_description_counts_parameters_beside_the_dense_twin() -> None:
    told = read_bundle(tiny_bundle.bundle_folder()).describe()
    d, ffn, heads = 32, 64, 4
    encoder = sum(d * 2 * d + d * heads * taps + d * d + 2 * d * ffn for taps in (3, 5))
    decoder = d * 2 * d + d * heads * 3 + d * d + 4 * d * d + 2 * d * ffn
    assert told["parameters"]["linear_dense"] == encoder + decoder
    assert told["parameters"]["linear"] < told["parameters"]["linear_dense"]
    assert told["bytes"]["total"] == sum(
        file.stat().st_size for file in tiny_bundle.bundle_folder().iterdir()
    )
    json.dumps(told)


def test_parameters_in_config_are_computed() -> None:
    config = json.loads((tiny_bundle.bundle_folder() / CONFIG).read_text())
    assert config["parameters"] == count_parameters(parse_architecture(config["architecture"]))


@pytest.mark.parametrize("name", [CONFIG, MODEL, TOKENIZER])
def test_missing_file(broken: Path, name: str) -> None:
    (broken / name).unlink()
    with pytest.raises(BundleMissing, match=name.replace(".", r"\.")):
        read_bundle(broken)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleMissing, match=r"no model folder at .*nowhere"):
        read_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "keep", [0, 7, 100, 0.5, -1], ids=["empty", "7-bytes", "header", "half", "all-but-one"]
)
@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_truncated_file(broken: Path, name: str, keep: float) -> None:
    data = (broken / name).read_bytes()
    short = data[: int(len(data) * keep) if isinstance(keep, float) else keep]
    (broken / name).write_bytes(short)
    with pytest.raises(BundleCorrupt, match=rf"{name} has {len(short)} bytes, .* says {len(data)}"):
        read_bundle(broken)


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5], ids=["empty", "7-bytes", "header", "half"])
def test_truncated_weights_under_a_matching_config(broken: Path, keep: float) -> None:
    data = (broken / MODEL).read_bytes()
    (broken / MODEL).write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(BundleCorrupt, match=r"truncated|at least 8"):
        read_tensors(broken / MODEL)


@pytest.mark.parametrize("place", [0, 9, -1], ids=["length", "header", "data"])
@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_flipped_byte(broken: Path, name: str, place: int) -> None:
    data = bytearray((broken / name).read_bytes())
    data[place] ^= 0x10
    (broken / name).write_bytes(data)
    with pytest.raises(BundleCorrupt, match=rf"{name} has SHA-256 .* content has changed"):
        read_bundle(broken)


@pytest.mark.parametrize("version", [0, 1, "2", None])
def test_other_version(broken: Path, version: object) -> None:
    tiny_bundle.edit_config(broken, lambda config: config.__setitem__("format_version", version))
    with pytest.raises(BundleVersion, match=f"version {version!r}; this kserve reads version 2"):
        read_bundle(broken)


@pytest.mark.parametrize("bits", [0x7F80, 0x7FC00000, 0xFF803F80])
def test_words_that_are_not_finite(broken: Path, bits: int) -> None:
    name = "encoder.1.ffn_in.kmatrix"
    tiny_bundle.edit_tensors(broken, lambda tensors: tensors[name].reshape(-1).__setitem__(-1, bits))
    with pytest.raises(BundleTensorError, match=rf"tensor {name} holds NaN or infinity at \["):
        read_bundle(broken)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["encoder.1.ffn_in.bias", "decoder.norm.bias", "embedding.scale"])
def test_not_finite(broken: Path, name: str, value: float) -> None:
    tiny_bundle.edit_tensors(broken, lambda tensors: tensors[name].reshape(-1).__setitem__(-1, value))
    with pytest.raises(BundleTensorError, match=rf"tensor {name} holds {value} at \["):
        read_bundle(broken)


def test_wrong_shape(broken: Path) -> None:
    def cut(tensors: tiny_bundle.Tensors) -> None:
        tensors["encoder.0.ffn_in.bias"] = tensors["encoder.0.ffn_in.bias"][:-1]

    tiny_bundle.edit_tensors(broken, cut)
    with pytest.raises(
        BundleTensorError, match=r"encoder.0.ffn_in.bias is F32 \[63\]; .* asks for F32 \[64\]"
    ):
        read_bundle(broken)


def test_wrong_type(broken: Path) -> None:
    def widen(tensors: tiny_bundle.Tensors) -> None:
        tensors["encoder.0.ffn_in.kmatrix"] = tensors["encoder.0.ffn_in.kmatrix"].astype(np.float32)

    tiny_bundle.edit_tensors(broken, widen)
    with pytest.raises(BundleTensorError, match=r"encoder.0.ffn_in.kmatrix is F32 .* asks for U32"):
        read_bundle(broken)


def test_missing_tensor(broken: Path) -> None:
    tiny_bundle.edit_tensors(broken, lambda tensors: tensors.__delitem__("decoder.0.query.bias"))
    with pytest.raises(BundleTensorError, match=r"1 tensors are missing, the first is decoder.0.query.bias"):
        read_bundle(broken)


def test_extra_tensor(broken: Path) -> None:
    tiny_bundle.edit_tensors(broken, lambda tensors: tensors.update(more=np.zeros(3, np.float32)))
    with pytest.raises(BundleTensorError, match=r"1 tensors do not belong .* the first is more"):
        read_bundle(broken)


CONFIG_MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "heads": (
        lambda c: c["architecture"].update(heads=5),
        "d_model is 32; .* multiple of architecture.heads",
    ),
    "zero": (lambda c: c["architecture"].update(d_ffn=0), "d_ffn is 0; expected a whole number"),
    "text": (lambda c: c["architecture"].update(vocab_size="120"), "vocab_size is '120'"),
    "huge": (lambda c: c["architecture"].update(d_model=1 << 40), "d_model is 1099511627776"),
    "even-kernel": (lambda c: c["architecture"].update(encoder_kernels=[4]), r"encoder_kernels is \[4\]"),
    "type": (lambda c: c["architecture"].update(type="lstm"), "type is 'lstm'; .*'dynamicconv'"),
    "glu": (lambda c: c["architecture"].update(glu=1), "glu is 1; expected true or false"),
    "site": (lambda c: c["architecture"]["linear"].pop("query"), "names the sites"),
    "kind": (lambda c: c["architecture"]["linear"].update(query={"kind": "lowrank"}), "kind is 'lowrank'"),
    "no-architecture": (lambda c: c.pop("architecture"), "architecture is None"),
    "no-files": (lambda c: c.pop("files"), "`files` is None"),
    "languages": (lambda c: c.update(languages={"source": "de"}), "languages is"),
    "beam": (lambda c: c["generation"].update(beam_size=0), "beam_size is 0"),
    "penalty": (lambda c: c["generation"].update(length_penalty=-1), "length_penalty is -1"),
    "positions": (lambda c: c["generation"].update(max_source_tokens=65), "the model has 64 positions"),
    "shortlist": (lambda c: c["generation"].pop("shortlist"), "shortlist is None; expected true or false"),
    "no-shortlist": (
        lambda c: c["generation"].update(shortlist=True),
        "shortlist is true, and architecture.shortlist tells of none",
    ),
    "shortlist-size": (
        lambda c: c["architecture"].update(shortlist={"tokens": -1, "always": 0}),
        "architecture.shortlist.tokens is -1",
    ),
    "shortlist-sizes": (
        lambda c: c["architecture"].update(shortlist=[3, 4]),
        r"architecture.shortlist is \[3, 4\]",
    ),
    "format": (lambda c: c.update(format="other"), "must say 'kserve-bundle'"),
}


@pytest.mark.parametrize("case", CONFIG_MISTAKES)
def test_impossible_configuration(broken: Path, case: str) -> None:
    change, message = CONFIG_MISTAKES[case]
    tiny_bundle.edit_config(broken, change)
    with pytest.raises(BundleConfigError, match=message):
        read_bundle(broken)


@pytest.mark.parametrize("text", ["", "{", "[]", '"kserve-bundle"', "\ufeff{}"])
def test_configuration_that_is_no_object(broken: Path, text: str) -> None:
    (broken / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=r"config\.json"):
        read_bundle(broken)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}x",
        b'{"a": 3}',
        b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [99], "data_offsets": [0, 396]}}',
    ],
)
def test_header_that_lies(tmp_path: Path, header: bytes) -> None:
    padded = header + b" " * (-(len(header) + 8) % 64)
    (tmp_path / MODEL).write_bytes(len(padded).to_bytes(8, "little") + padded + bytes(8))
    with pytest.raises(BundleError, match=MODEL):
        read_tensors(tmp_path / MODEL)


def test_a_bundle_is_replaced_in_one_move(tmp_path: Path) -> None:
    path = tiny_bundle.write(tmp_path / "model")
    tiny_bundle.write(path, "dense")
    assert read_bundle(path).shape.linear["query"].kind == "dense"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_another_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BundleError, match=r"exists and is no model folder"):
        tiny_bundle.write(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    settings = tiny_bundle.config()
    weights = tiny_bundle.tensors(settings)
    weights["decoder.norm.gain"][3] = np.nan
    with pytest.raises(BundleTensorError, match=r"decoder.norm.gain holds nan"):
        write_bundle(tmp_path / "model", settings, weights, tiny_bundle.tokenizer_model(), "")
    assert not list(tmp_path.iterdir())


def test_grid_sizes_follow_the_layout() -> None:
    shape = parse_architecture(tiny_bundle.config()["architecture"])
    tensors = expected_tensors(shape)
    # 32 → 64: two squares of 32 above each other: two chunks, two outer factors of 64 numbers, two blocks of
    # 256 numbers.
    assert tensors["encoder.0.ffn_in.kmatrix"].shape == (2, 1, 10 * 32 // 2)
    # 32 → 4 heads of 3 taps: the square that holds 12 is 16 wide, one block.
    assert tensors["encoder.0.kernel.kmatrix"].shape == (1, 2, 8 * 16 // 2)


def test_writing_again_keeps_what_stands_beside_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: tiny\n")
    for _ in range(2):
        tiny_bundle.write(folder)
        assert (folder / "recipe.yaml").read_text() == "name: tiny\n"
    assert read_bundle(folder).name == "tiny-de-en"
