"""Checkpoint to bundle and back: names, numbers, the card, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import DENSE, KMATRIX, MIXED, tiny_model, tiny_recipe, write_run

from kserve import dense_layout
from kserve.architecture import expected_tensors
from kserve.bundle import read_bundle
from kserve.kmatrix import KLinear
from kserve.runtime_layout import LayoutError
from kserve.train.export import ExportError, bundle_tensors, export
from kserve.train.model import DynamicConvModel
from kserve.train.recipe import RecipeError
from kserve.train.restore import dequantised_weights, load_model, restore, trainable_weights
from kserve.translator import Translator


@pytest.fixture(scope="module")
def model() -> DynamicConvModel:
    """Norms with gains and biases of their own, as after training."""
    model = tiny_model(tiny_recipe(KMATRIX, MIXED))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, torch.nn.LayerNorm):
                layer.weight.copy_(0.5 + torch.rand(40, generator=generator))
                layer.bias.copy_(0.3 * torch.randn(40, generator=generator))
    return model


@pytest.fixture(scope="module")
def checkpoint(model: DynamicConvModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), tiny_recipe(KMATRIX, MIXED), model)


@pytest.fixture(scope="module")
def bundle_path(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    scores = folder / "own-valid.json"
    signature = "nrefs:1|case:mixed|tok:13a"
    scores.write_text(json.dumps({"bleu": 12.34, "chrf": 40.0, "ter": 70.5, "signature": signature}))
    return export(checkpoint, folder / "tiny", scores=[scores])


def test_bundle_holds_what_its_architecture_asks_for(bundle_path: Path) -> None:
    bundle = read_bundle(bundle_path)
    assert set(bundle.tensors) == set(expected_tensors(bundle.shape))
    assert bundle.tensors["encoder.0.ffn_in.kmatrix"].dtype == np.uint32
    assert bundle.tensors["decoder.1.query.dense"].shape == (3, 40, 16)
    assert bundle.tensors["embedding.table"].dtype == np.int8
    assert (bundle.source_language, bundle.target_language, bundle.name) == ("de", "en", "tiny")
    assert bundle.generation.beam_size == 2
    assert bundle.config["quality"]["own-valid"]["bleu"] == 12.34
    assert bundle.config["provenance"]["trained"] == {
        "step": 1,
        "seconds": 5400.0,
        "target_tokens": 2_500_000,
    }


def test_restored_weights_are_the_models_own_up_to_rounding(
    model: DynamicConvModel, bundle_path: Path
) -> None:
    restored = restore(bundle_path)
    for name, layer in model.named_modules():
        if not isinstance(layer, KLinear | torch.nn.Linear):
            continue
        found = restored.get_submodule(name)
        assert isinstance(found, torch.nn.Linear)
        dense = (layer.to_dense() if isinstance(layer, KLinear) else layer.weight).detach()
        assert layer.bias is not None
        bias = layer.bias.detach()
        norm = norm_in_front(model, name)
        if norm is not None:
            bias = bias + dense @ norm.bias
            dense = dense * norm.weight
        # 16 bits move each of the factors' numbers by up to 2**-8.
        error = (found.weight - dense).norm() / dense.norm()
        assert error < (0.01 if isinstance(layer, KLinear) else 1e-3), name
        torch.testing.assert_close(found.bias, bias, rtol=1e-5, atol=1e-6)
    assert torch.equal(restored.decoder.norm.weight, model.decoder.norm.weight)
    assert torch.equal(restored.encoder.norm.weight, torch.ones(40))
    table, wanted = restored.embedding.weight, model.embedding.weight
    half_step = wanted.abs().amax(1, keepdim=True) / 254
    assert ((table - wanted).abs() <= half_step * 1.001).all()


def norm_in_front(model: DynamicConvModel, name: str) -> torch.nn.LayerNorm | None:
    """The layer norm whose gain and bias became part of a linear layer."""
    layer, _, site = name.rpartition(".")
    if site in ("key", "value"):
        return model.encoder.norm
    norm = {"conv_in": "conv_norm", "query": "attn_norm", "ffn_in": "ffn_norm"}.get(site)
    found = None if norm is None else model.get_submodule(f"{layer}.{norm}")
    assert found is None or isinstance(found, torch.nn.LayerNorm)
    return found


def test_a_model_to_train_on_from_is_the_bundles_own_again(
    model: DynamicConvModel, bundle_path: Path
) -> None:
    bundle = read_bundle(bundle_path)
    dense = dequantised_weights(bundle)
    again = DynamicConvModel(model.arch)
    again.load_state_dict(trainable_weights(bundle))
    tensors = bundle_tensors(again.state_dict(), bundle.shape)
    exported = dequantised_weights(replace(bundle, tensors=tensors))
    for name, layer in again.named_modules():
        key = f"{name}.weight"
        if isinstance(layer, KLinear):
            torch.testing.assert_close(layer.to_dense(), dense[key], rtol=0, atol=2e-5)
        if isinstance(layer, KLinear | torch.nn.Linear):
            assert (exported[key] - dense[key]).norm() < 0.01 * dense[key].norm(), name
    for name in ("embedding.weight", "decoder.norm.weight", "encoder.layers.1.ffn_in.bias"):
        torch.testing.assert_close(exported[name], dense[name])


def test_restored_model_decodes_like_the_checkpoint(checkpoint: Path, bundle_path: Path) -> None:
    source, target = torch.tensor([[7, 20, 33, 54, 9, 2]]), torch.tensor([[1, 11, 87, 30]])
    with torch.inference_mode():
        exact, rounded = (
            model.decode(model.prepare(source), target)
            for model in (load_model(checkpoint), restore(bundle_path))
        )
    # Four layers of 16-bit weights, and an int8 embedding (off by 1/254 of a row's largest number).
    assert (exact - rounded).abs().max() < 0.2
    assert (exact - rounded).abs().max() > 0, "quantisation must have happened"


@pytest.mark.parametrize("linear", [KMATRIX, DENSE], ids=["kmatrix", "dense"])
@pytest.mark.parametrize("glu", [True, False], ids=["glu", "no-glu"])
def test_every_kind_of_model_exports(linear: dict[str, Any], glu: bool, tmp_path: Path) -> None:
    recipe = tiny_recipe(linear, glu=glu)
    model = tiny_model(recipe)
    bundle = read_bundle(export(write_run(tmp_path / "run", recipe, model), tmp_path / "bundle"))
    weights = [name.rpartition(".")[2] for name in bundle.tensors if "conv_in" in name and "bias" not in name]
    assert set(weights) == {linear["kind"]}
    assert bundle.shape.glu is glu
    restore(bundle)


def test_card_tells_data_licence_training_scores_and_sizes(bundle_path: Path) -> None:
    card = (bundle_path / "README.md").read_text(encoding="utf-8")
    for fact in (
        "German to English",
        "| `own` | 1 | Apache-2.0 |",
        "| own-valid | 12.3 | 40.0 | 70.5 |",
        "`nrefs:1|case:mixed|tok:13a`",
        "1.5 hours",
        "2.5 M target tokens",
        "K-matrices at 7 of 9 sites",
        "120 bpe pieces",
    ):
        assert fact in card


def test_card_compares_with_a_dense_twin(checkpoint: Path, tmp_path: Path) -> None:
    files = {}
    for side, bleu, speed in (("own", 12.34, 611.4), ("dense", 15.61, 98.6)):
        files[side] = tmp_path / side / "valid.json"
        files[side].parent.mkdir()
        found = {"bleu": bleu, "sentences_per_second": speed, "threads": 2, "isa": "avx2", "beam_size": 4}
        files[side].write_text(json.dumps(found))
    export(checkpoint, tmp_path / "out", scores=[files["own"]], dense_scores=[files["dense"]])
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| text | BLEU | chrF | TER | dense twin's BLEU |" in card
    assert "| valid | 12.3 |  |  | 15.6 |" in card
    assert "on 2 threads (avx2), a beam of 4:\nvalid 611 and 99." in card
    with pytest.raises(ExportError, match="of a dense twin on valid, but none of the model"):
        export(checkpoint, tmp_path / "out", dense_scores=[files["dense"]])


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_dense_layers_in_other_precisions(
    precision: str, checkpoint: Path, bundle_path: Path, tmp_path: Path
) -> None:
    out = export(checkpoint, tmp_path / "out", precision=precision)
    bundle, usual = read_bundle(out), read_bundle(bundle_path)
    for site, kind in bundle.shape.linear.items():
        assert kind.precision == (precision if kind.kind == "dense" else "float16"), site
    name = "decoder.layers.1.query.weight"
    found, wanted = (dequantised_weights(one)[name] for one in (bundle, usual))
    assert (found - wanted).abs().max() < wanted.abs().max() / 120
    stored = {"float32": "16 bits and 32 bits", "int8": "16 bits and int8"}[precision]
    assert f"linear layers in {stored}," in (out / "README.md").read_text(encoding="utf-8")
    Translator(out).warm()


def test_unknown_precisions_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'int4' is unknown; use float16, float32, int8"):
        export(checkpoint, tmp_path / "out", precision="int4")


def test_quantised_rows_are_symmetric_and_off_by_half_a_step() -> None:
    rows = np.random.default_rng(3).standard_normal((50, 24)) * np.logspace(-6, 3, 50)[:, None]
    rows[7] = 0.0
    table, scale = dense_layout.quantise_rows(rows)
    assert table.dtype == np.int8
    assert np.abs(table[:7]).max(axis=1).tolist() == [127] * 7
    assert not table[7].any()
    error = np.abs(table * scale.astype(np.float64)[:, None] - rows)
    assert (error <= 0.5001 * scale[:, None]).all()
    with pytest.raises(LayoutError, match="NaN or infinite"):
        dense_layout.quantise_rows(np.array([[1.0, np.nan]]))


def test_missing_and_left_over_weights_are_named(model: DynamicConvModel, bundle_path: Path) -> None:
    shape, weights = read_bundle(bundle_path).shape, dict(model.state_dict())
    short = {name: value for name, value in weights.items() if name != "decoder.layers.1.key.twiddle"}
    with pytest.raises(ExportError, match=r"no weight 'decoder\.layers\.1\.key\.twiddle'"):
        bundle_tensors(short, shape)
    with pytest.raises(ExportError, match=r"without a place.*extra\.weight"):
        bundle_tensors({**weights, "extra.weight": torch.zeros(1)}, shape)
    weights["encoder.layers.0.ffn_in.twiddle"] = weights["encoder.layers.0.ffn_in.twiddle"] * float("nan")
    with pytest.raises(ExportError, match=r"encoder\.0\.ffn_in.*NaN or infinite"):
        bundle_tensors(weights, shape)


def _text(path: Path) -> None:
    path.write_text("no checkpoint")


def _other_dictionary(path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, path)


def _code(path: Path) -> None:
    torch.save({"model": Path("/")}, path)  # a class: the restricted reader must refuse it


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: None, "no checkpoint at"),
        (_text, "is no checkpoint of this program"),
        (_other_dictionary, r"holds no \['architecture', 'model', 'recipe'\]"),
        (_code, "is no checkpoint of this program"),
    ],
    ids=["missing", "text", "other", "code"],
)
def test_files_that_are_no_checkpoint_are_refused(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "final.pt")
    with pytest.raises(RecipeError, match=message):
        export(tmp_path / "final.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_tokenizers_and_scores_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ExportError, match="cannot read the tokenizer"):
        export(checkpoint, out, tokenizer=tmp_path / "absent.model")
    broken = tmp_path / "broken.model"
    broken.write_bytes(b"no model")
    with pytest.raises(ExportError, match="no SentencePiece model"):
        export(checkpoint, out, tokenizer=broken)
    broken.write_text('{"chrf": 1}')
    with pytest.raises(ExportError, match="holds no `bleu`"):
        export(checkpoint, out, scores=[broken])
    assert not out.exists()
