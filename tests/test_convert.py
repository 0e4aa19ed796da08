"""`kserve convert fairseq`, from a checkpoint's files to translations, and on to K-matrices and training."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import yaml
from checkpoints import SENTENCES
from command_line import exit_code
from fairseq_model import FairseqModel, Sizes, random_weights, save
from test_convert_vocabulary import (
    apply_bpe,
    by_frequency,
    learn_bpe,
    tokenized,
    train_sentencepiece,
    write_codes,
    write_dictionary,
)

from kserve.convert.project import fit
from kserve.convert.vocabulary import read_dictionary
from kserve.kmatrix import KLinear
from kserve.train.restore import load_model

TEXT = [side for pair in SENTENCES for side in pair]
BEGIN, PAD, EOS, UNK = range(4)  # fairseq's


class Foreign:
    """A fairseq model with its dictionary and whatever cut its text, in a folder."""

    def __init__(self, folder: Path, kind: str, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        if kind == "bpe":
            words = Counter(word for text in TEXT for word in tokenized(text))
            merges = learn_bpe(words, 80)
            self.cutter = ["--bpe-codes", str(write_codes(folder / "codes", merges))]
            cut = [[unit for word in tokenized(text) for unit in apply_bpe(word, merges)] for text in TEXT]
        else:
            trained = train_sentencepiece(folder / "spm.model", "unigram")
            self.cutter = ["--sentencepiece", str(folder / "spm.model")]
            cut = [trained.encode(text, out_type=str) for text in TEXT]
        self.cut = cut
        path = write_dictionary(folder / "dict.de.txt", by_frequency(cut))
        self.symbols = read_dictionary(path, len(path.read_text(encoding="utf-8").splitlines()) + 4)
        self.sizes = Sizes(vocab=len(self.symbols), **options)
        self.weights = random_weights(self.sizes)
        # As in a trained model: the unknown token and those that fill the dictionary up are never the best.
        save(folder / "checkpoint.pt", self.sizes, self.weights)

    def arguments(self, out: Path, *more: str) -> list[str]:
        files = [str(self.folder / "checkpoint.pt"), "--dict", str(self.folder / "dict.de.txt")]
        return ["convert", "fairseq", *files, *self.cutter, "--out", str(out), *more]


@pytest.mark.parametrize("kind", ["sentencepiece", "bpe"])
def test_converted_model_translates_as_fairseq_does(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = Foreign(tmp_path / "foreign", kind)
    assert exit_code(*foreign.arguments(tmp_path / "run", "--licence", "CC BY 4.0")) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "run" / "final.pt")
    model = load_model(tmp_path / "run" / "final.pt")
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "run" / "tokenizer.model"))
    reference = FairseqModel(foreign.sizes, foreign.weights)
    for text, symbols in list(zip(TEXT, foreign.cut, strict=True))[:6]:
        line = text if kind == "sentencepiece" else " ".join(tokenized(text))
        (found,) = model.greedy([tokenizer.encode(line, add_eos=True)], 0.0, 12)
        source = [foreign.symbols.index(symbol) for symbol in symbols]
        wanted = reference.greedy([*source, EOS], [BEGIN, PAD, UNK], 12)
        pieces = [foreign.symbols[token] for token in wanted]
        assert [symbol_of(tokenizer.id_to_piece(token), kind) for token in found] == pieces


def symbol_of(piece: str, kind: str) -> str:
    """A piece as the dictionary has it; one that no text has carries a number."""
    piece = piece.partition("\t")[0]
    if kind == "sentencepiece" or piece.startswith("madeupword"):
        return piece
    return piece[:-1] if piece.endswith("\u2581") else f"{piece}@@"


def test_recipe_tells_what_the_checkpoint_tells(tmp_path: Path) -> None:
    foreign = Foreign(tmp_path / "foreign", "sentencepiece")
    options = ["--licence", "CC BY 4.0", "--name", "old-model"]
    assert exit_code(*foreign.arguments(tmp_path / "run", *options)) == 0
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert (recipe["name"], recipe["languages"]) == ("old-model", {"source": "de", "target": "en"})
    assert recipe["data"]["train"][0]["licence"] == "CC BY 4.0"
    training = recipe["training"]
    assert (training["steps"], training["learning_rate"], training["warmup_steps"]) == (1234, 0.0005, 4000)
    assert (training["dropout"], training["label_smoothing"]) == (0.3, 0.1)
    assert recipe["model"]["norm"] == "post"


def write_data(folder: Path) -> Path:
    folder.mkdir()
    for side, code in enumerate(("de", "en")):
        text = "".join(f"{pair[side]}\n" for pair in SENTENCES)
        for name in ("train", "valid"):
            (folder / f"{name}.{code}").write_text(text, encoding="utf-8")
    return folder


def write_recipe(path: Path) -> Path:
    training = {"steps": 6, "batch_tokens": 200, "warmup_steps": 2, "save_every": 3, "validate_every": 6}
    recipe = {
        "name": "further",
        "languages": {"source": "de", "target": "en"},
        "data": {"train": [{"prefix": "train", "licence": "own"}], "valid": "valid"},
        "training": training | {"valid_sentences": 4, "average_last": 1, "learning_rate": 1e-3},
    }
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def test_projection_and_training_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign = Foreign(tmp_path / "foreign", "sentencepiece")
    further = [
        "--recipe",
        str(write_recipe(tmp_path / "further.yaml")),
        "--data",
        str(write_data(tmp_path / "data")),
    ]
    options = ["--to-k", "--width", "2", "--fit-steps", "40", "--json", *further]
    assert exit_code(*foreign.arguments(tmp_path / "run", *options)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["final"] == str(tmp_path / "run" / "final.pt")
    assert len(told["missed"]) == 9
    assert all(0 < missed < 1 for missed in told["missed"].values())
    state = torch.load(tmp_path / "run" / "final.pt", weights_only=True)
    assert state["progress"]["step"] == 6
    assert state["architecture"]["linear"]["query"] == {"kind": "kmatrix", "width": 2, "expansion": 1}
    assert state["architecture"]["norm"] == "post"
    assert len((tmp_path / "run" / "log.csv").read_text().splitlines()) == 3
    assert load_model(tmp_path / "run" / "final.pt").arch.begin == "end"


def test_projection_finds_kmatrices_again_and_approaches_others() -> None:
    torch.manual_seed(5)
    dense = {f"kmatrix{i}": KLinear(16, 16).to_dense().detach() for i in range(6)}
    dense |= {f"other{i}": torch.randn(40, 16) for i in range(6)}
    missed = {}
    for steps in (20, 600):
        layers = {name: KLinear(weight.shape[1], weight.shape[0]) for name, weight in dense.items()}
        fit(layers, dense, steps)
        differences = {name: layers[name].to_dense().detach() - weight for name, weight in dense.items()}
        missed[steps] = {name: float(differences[name].norm() / dense[name].norm()) for name in dense}
    assert all(missed[600][name] < missed[20][name] < 1 for name in dense)
    found = sorted(error for name, error in missed[600].items() if name.startswith("kmatrix"))
    assert found[2] < 0.2  # most of them; gradient descent may end in another place


def fails(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> str:
    """What the command says when it refuses; it leaves no run folder."""
    assert exit_code(*arguments) == 2
    assert not out.exists()
    return capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, out = Foreign(tmp_path / "foreign", "sentencepiece"), tmp_path / "run"
    given = foreign.arguments(out)
    without = [argument for argument in given if argument not in foreign.cutter]
    assert "give either --sentencepiece or --bpe-codes" in fails(capsys, out, *without)
    assert "give both --recipe and --data" in fails(capsys, out, *given, "--data", str(tmp_path))
    assert "cannot read the recipe" in fails(
        capsys, out, *given, "--data", str(tmp_path), "--recipe", str(tmp_path / "nowhere.yaml")
    )
    other = Foreign(tmp_path / "other", "bpe")
    wrong = [*given[:4], str(other.folder / "dict.de.txt"), *given[5:]]
    assert "dictionary" in fails(capsys, out, *wrong)
    torch.save({"args": foreign.sizes.namespace(), "model": {}}, foreign.folder / "checkpoint.pt")
    assert "holds no weights of a lightconv model" in fails(capsys, out, *given)
    options = foreign.sizes.namespace()
    del options.source_lang, options.target_lang
    torch.save({"args": options, "model": foreign.weights}, foreign.folder / "checkpoint.pt")
    assert "give --source and --target" in fails(capsys, out, *given)


def test_run_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, out = Foreign(tmp_path / "foreign", "sentencepiece"), tmp_path / "run"
    assert exit_code(*foreign.arguments(out)) == 0
    before = (out / "final.pt").read_bytes()
    assert exit_code(*foreign.arguments(out)) == 2
    assert "holds a training run already" in capsys.readouterr().err
    assert (out / "final.pt").read_bytes() == before


def test_engine_says_that_it_cannot_run_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    foreign, out = Foreign(tmp_path / "foreign", "sentencepiece"), tmp_path / "run"
    assert exit_code(*foreign.arguments(out)) == 0
    assert exit_code("export", str(out / "final.pt"), str(tmp_path / "bundle")) == 1
    assert "of a model of another program" in capsys.readouterr().err
