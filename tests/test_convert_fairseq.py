"""fairseq checkpoints: converted to the last term against fairseq's formulas, or refused by name."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fairseq_model import FairseqModel, Sizes, random_weights, save, with_option

from kserve.architecture import parse_architecture
from kserve.convert.fairseq import architecture, read_options, rename, updates
from kserve.convert.pickles import ConvertError, plain, read_foreign_checkpoint
from kserve.errors import BundleConfigError
from kserve.train.model import DynamicConvModel
from kserve.train.spec import Architecture

VARIANTS = {
    "dynamic-post-glu": Sizes(),
    "dynamic-pre": Sizes(normalize_before=True, glu=False, old_attention=True),
    "light-post": Sizes(conv_type="lightweight", glu=False),
    "light-pre-glu": Sizes(conv_type="lightweight", normalize_before=True),
    "conv-bias": Sizes(conv_bias=True, encoder_kernels=(1, 31), decoder_kernels=(15,)),
}
SOURCE, TARGET = [7, 30, 5, 5, 12, 2], [9, 4, 33, 21]


def convert(sizes: Sizes, weights: dict[str, torch.Tensor]) -> DynamicConvModel:
    """The torch model, its ids in fairseq's order but for the start token, which is BEGIN here."""
    options = read_options({"args": sizes.namespace()})
    arch = architecture(options, sizes.vocab)
    model = DynamicConvModel(Architecture.from_dict(arch))
    model.load_state_dict(rename(weights, options, arch))
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_are_those_of_fairseq(name: str) -> None:
    sizes = VARIANTS[name]
    weights = random_weights(sizes)
    wanted = FairseqModel(sizes, weights).logits(SOURCE, TARGET)
    model = convert(sizes, weights)
    with torch.no_grad():
        # 2 is the end token here and in fairseq; the start token 1 stands for it.
        hidden = model.decode(model.prepare(torch.tensor([SOURCE])), torch.tensor([[1, *TARGET]]))
        found = hidden[0] @ model.embedding.weight.T
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)


def test_steps_are_those_of_whole_sentences() -> None:
    """Norms after the blocks also when the decoder goes step by step, padding beside it."""
    sizes = VARIANTS["dynamic-post-glu"]
    model = convert(sizes, random_weights(sizes))
    other = [8, 9, 2, 3, 3, 3]
    with torch.no_grad():
        source = model.prepare(torch.tensor([SOURCE, other]))
        target = torch.tensor([[1, *TARGET], [1, *TARGET]])
        whole = model.decode(source, target)
        histories = model.start_histories(2)
        steps = [model.step(source, target[:, i], i, histories) for i in range(target.shape[1])]
        alone = model.decode(model.prepare(torch.tensor([other[:3]])), target[:1])
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole[1:], alone, rtol=0, atol=1e-5)


def test_converted_model_learns() -> None:
    """Gradients flow through norms after the blocks in both types of numbers."""
    sizes = VARIANTS["dynamic-post-glu"]
    model = convert(sizes, random_weights(sizes))
    for dtype in (torch.float32, torch.bfloat16):
        model.dtype = dtype
        model.zero_grad()
        hidden = model.decode(model.prepare(torch.tensor([SOURCE])), torch.tensor([[1, *TARGET]]))
        torch.autograd.backward(hidden.square().sum())
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            # A sum of squares after a layer norm hardly changes with what is before it, but it does change.
            assert parameter.grad.any(), name


def test_engine_refuses_what_it_cannot_run() -> None:
    arch = architecture(read_options({"args": Sizes().namespace()}), 40)
    with pytest.raises(BundleConfigError, match=r"norm.* of a model of another program"):
        parse_architecture(arch)


# Files.


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_both_file_formats_are_read(tmp_path: Path, legacy: bool) -> None:
    sizes = Sizes()
    weights = random_weights(sizes)
    state = read_foreign_checkpoint(save(tmp_path / "checkpoint.pt", sizes, weights, legacy))
    assert read_options(state).languages == ("de", "en")
    assert updates(state) == 1234
    assert all(torch.equal(value, weights[name]) for name, value in state["model"].items())


class _Saved:
    """An object of a class that will be gone when it is read."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


def pretend(monkeypatch: pytest.MonkeyPatch, name: str) -> type[_Saved]:
    """A class under a foreign full name, importable until the test ends."""
    module, _, own = name.rpartition(".")
    parts = module.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(".".join(parts[:count])))
    made = type(own, (_Saved,), {"__module__": module, "__qualname__": own})
    setattr(sys.modules[module], own, made)
    return made


def test_options_of_omegaconf_and_meters_are_read_without_their_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        meter = pretend(patch, "fairseq.meters.AverageMeter")
        config = pretend(patch, "omegaconf.dictconfig.DictConfig")
        node = pretend(patch, "omegaconf.nodes.AnyNode")
        options = vars(Sizes().namespace()) | {"_name": "lightconv", "arch": None}
        wrapped = {
            key: config(_content=value) if isinstance(value, list) else node(_val=value)
            for key, value in options.items()
        }
        task = config(_content={"source_lang": node(_val="de"), "target_lang": node(_val="en")})
        cfg = config(_content={"model": config(_content=wrapped), "task": task})
        state = {"args": None, "cfg": cfg, "extra_state": {"train_meters": {"loss": meter(val=3.5)}}}
        torch.save(state, tmp_path / "checkpoint.pt")
    read = read_foreign_checkpoint(tmp_path / "checkpoint.pt")
    assert plain(read["cfg"])["model"]["encoder_kernel_size_list"] == [3, 7]
    assert architecture(read_options(read), 40)["encoder_kernels"] == [3, 7]
    assert read_options(read).languages == ("de", "en")
    assert "omegaconf" not in sys.modules


class _Command:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pickle_that_wants_to_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    trace = tmp_path / "trace"
    state = {"args": Sizes().namespace(), "model": {}, "extra": _Command(f"touch {trace}")}
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ConvertError, match=r"wants to use posix\.system.*it is not loaded"):
        read_foreign_checkpoint(tmp_path / "evil.pt")
    assert not trace.exists()


def test_code_under_a_harmless_name_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of fairseq's gets a stand-in; its module is not imported, its reduction not called."""
    trace = tmp_path / "trace"
    with monkeypatch.context() as patch:
        evil = pretend(patch, "fairseq.trap.Trap")
        evil.__reduce__ = lambda _: (evil, (str(trace),))  # type: ignore[method-assign, assignment]
        torch.save({"args": evil(), "model": {}}, tmp_path / "trap.pt")
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq" / "__init__.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    read_foreign_checkpoint(tmp_path / "trap.pt")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(ConvertError, match="no readable torch checkpoint"):
        read_foreign_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(ConvertError, match="no checkpoint at"):
        read_foreign_checkpoint(tmp_path / "nowhere.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ConvertError, match="holds a list"):
        read_foreign_checkpoint(tmp_path / "list.pt")


# Options and weights.

REFUSED = {
    "arch": ("transformer", "architecture 'transformer'"),
    "encoder_learned_pos": (True, "positions are sinusoids"),
    "decoder_learned_pos": (True, "positions are sinusoids"),
    "no_token_positional_embeddings": (True, "positions are always added"),
    "adaptive_softmax_cutoff": ("100,200", "output layer is one table"),
    "weight_softmax": (False, "kernels are softmaxed"),
    "share_all_embeddings": (False, "--share-all-embeddings"),
    "decoder_embed_dim": (32, "encoder_embed_dim is 16 and decoder_embed_dim 32"),
    "encoder_conv_dim": (32, "encoder_conv_dim 32"),
    "decoder_ffn_embed_dim": (32, "decoder_ffn_embed_dim 32"),
    "decoder_attention_heads": (2, "decoder_attention_heads 2"),
    "decoder_glu": (False, "decoder_glu False"),
    "decoder_normalize_before": (True, "decoder_normalize_before True"),
    "encoder_kernel_size_list": ([3, 4], "an odd size for each layer"),
    "decoder_kernel_size_list": ([3, 5], "an odd size for each layer"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_without_a_counterpart_are_refused_by_name(option: str) -> None:
    value, message = REFUSED[option]
    with pytest.raises(ConvertError, match=message):
        architecture(read_options({"args": with_option(Sizes(), **{option: value}).namespace()}), 40)


def test_options_that_an_old_checkpoint_lacks_have_fairseqs_defaults() -> None:
    sparse = {"arch": "lightconv_wmt_en_de", "share_all_embeddings": True}
    arch = architecture(read_options({"cfg": {"model": sparse}}), 100)
    assert (arch["d_model"], arch["d_ffn"], arch["heads"], arch["glu"]) == (512, 2048, 8, True)
    assert arch["encoder_kernels"] == [3, 7, 15, 31, 31, 31, 31]
    assert arch["norm"] == "post"
    one = architecture(read_options({"cfg": {"model": sparse | {"encoder_kernel_size_list": [5]}}}), 100)
    assert one["encoder_kernels"] == [5] * 7
    with pytest.raises(ConvertError, match="neither `args` nor `cfg`"):
        read_options({"model": {}})


def spoilt(change: str) -> dict[str, torch.Tensor]:
    weights = random_weights(Sizes())
    name = "encoder.layers.1.fc1.weight"
    if change == "missing":
        del weights[name]
    elif change == "shape":
        weights[name] = weights[name].T
    elif change == "nan":
        weights[name][0, 0] = float("nan")
    elif change == "left over":
        weights["encoder.layers.1.adapter.weight"] = torch.zeros(1)
    else:
        weights["decoder.embed_tokens.weight"][5] += 1
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"has no weight encoder\.layers\.1\.fc1\.weight"),
        ("shape", r"encoder\.layers\.1\.fc1\.weight has shape \(16, 24\)"),
        ("nan", r"encoder\.layers\.1\.fc1\.weight holds NaN"),
        ("left over", r"without a counterpart here: encoder\.layers\.1\.adapter\.weight"),
        ("tables", "tables of source and target differ"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change: str, message: str) -> None:
    with pytest.raises(ConvertError, match=message):
        convert(Sizes(), spoilt(change))
