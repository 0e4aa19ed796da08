"""`kserve export --shortlist`: lists learned from text, in the bundle, the command line and the server."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle
from command_line import exit_code
from numpy.typing import NDArray
from server_process import serving
from training_runs import GERMAN, recipe_dict, start, write_recipe

from kserve import Translator
from kserve._engine import DecodingOptions
from kserve.bundle import read_bundle
from kserve.errors import BundleConfigError, BundleTensorError, EngineFailure, InvalidParameter
from kserve.tokenizer import END
from kserve.train.data import Corpora
from kserve.train.draft import Draft
from kserve.train.restore import restore
from kserve.train.shortlist import SIZES, learn_shortlist, with_shortlist

WORDS = range(10, 40)  # of the source; word w means w + 40
TOPIC = 90  # stands in every target sentence, whatever the source says
VOCAB = 100


def corpora(count: int, seed: int = 4) -> Corpora:
    """Sentences of a language whose words each have one translation, in another order."""
    rng = np.random.default_rng(seed)
    sources = [[int(w) for w in rng.choice(WORDS, rng.integers(2, 8), replace=False)] for _ in range(count)]
    targets = [[TOPIC, *(int(w) + 40 for w in rng.permutation(source))] for source in sources]
    return Corpora(*flat(sources), *flat(targets))


def flat(sentences: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ids one after another with their end tokens, and where each sentence begins."""
    ids = [[*sentence, END] for sentence in sentences]
    return np.array([i for sentence in ids for i in sentence], np.int32), np.cumsum([0, *map(len, ids)])


def test_the_dictionary_of_a_made_up_language_is_found() -> None:
    lists = learn_shortlist(corpora(400), VOCAB)
    for word in WORDS:
        listed = lists.tokens[lists.first[word] : lists.first[word + 1]].tolist()
        assert {word, word + 40} <= set(listed)
        assert listed == sorted(set(listed))
        # Others remain only because four rounds are few; most of the thirty words are gone.
        assert len(listed) < 12
    assert lists.first[0] == 0
    assert lists.first[-1] == len(lists.tokens)
    assert lists.of([10, 11, END]).tolist() == sorted(
        {*lists.tokens[lists.first[10] : lists.first[12]].tolist(), *lists.always.tolist(), END}
    )


def test_tokens_that_never_came_translate_to_themselves() -> None:
    lists = learn_shortlist(corpora(50), VOCAB)
    assert lists.tokens[lists.first[95] : lists.first[96]].tolist() == [95]
    assert lists.first[1] == 0, "the unknown token produces nothing"
    assert not {0, 1, 2, 3} & set(lists.tokens.tolist())
    assert not {0, 1, 2, 3} & set(lists.always.tolist())


def test_the_most_frequent_target_tokens_are_for_any_sentence() -> None:
    """Two hundred target words of very different frequency, of which the rarest are left out."""
    rng = np.random.default_rng(2)
    words = 4 + np.minimum(rng.zipf(1.3, 20_000), 200).astype(np.int32)
    offsets = np.arange(0, 20_001, 10)
    lists = learn_shortlist(Corpora(words, offsets, words, offsets), 300)
    counts = np.bincount(words, minlength=300)
    assert len(lists.always) == SIZES[0].always
    assert counts[lists.always].min() >= np.delete(counts, lists.always).max()
    assert max(np.diff(lists.first)) <= SIZES[0].each + 1


@pytest.fixture(scope="module")
def checkpoint(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    start(write_recipe(folder, recipe_dict(steps=24, learning_rate=2e-2)), text, folder / "run").run()
    return folder / "run" / "checkpoint.pt"


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundle") / "tiny"
    shortlist = ["--shortlist", "--shortlist-on", "valid"]
    assert exit_code("export", str(checkpoint), str(out), *shortlist, "--data", str(text)) == 0
    return out


def test_the_bundle_tells_what_its_lists_are_and_cost(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert read.shape.shortlist is not None
    assert read.shape.shortlist.tokens == len(read.tensors["shortlist.tokens"]) > 60
    facts = read.config["provenance"]["shortlist"]
    assert list(facts["texts"]) == ["valid"]
    assert 1 < facts["listed"] <= 60
    scores = facts["texts"]["valid"]
    assert read.generation.shortlist == (scores["bleu_whole"] - scores["bleu"] <= 0.1)
    assert "## Shortlist" in (bundle / "README.md").read_text()
    without = read.describe()["parameters"]
    assert "shortlist" not in without


def test_lists_that_cost_too_much_on_one_text_are_no_default() -> None:
    """Lists of one word: they cost the bundled model's own translations all, and others nothing."""
    translator = Translator()
    read = translator.bundle
    architecture = {**read.config["architecture"], "shortlist": None}
    generation = {**read.config["generation"], "shortlist": False}
    provenance = {key: fact for key, fact in read.config["provenance"].items() if key != "shortlist"}
    draft = Draft(
        {**read.config, "architecture": architecture, "generation": generation, "provenance": provenance},
        {name: tensor for name, tensor in read.tensors.items() if not name.startswith("shortlist.")},
        (read.path / "tokenizer.model").read_bytes(),
    )
    own = [(text, translator.translate(text, shortlist=False).text) for text in texts()]
    other = [(text, "¿") for text in texts()]
    one_word = Corpora(*flat([[10]]), *flat([[10]]))
    for tried, default in (({"other": other}, True), ({"other": other, "own": own}, False)):
        config = with_shortlist(draft, one_word, tried).config
        assert config["generation"]["shortlist"] is default
        assert list(config["provenance"]["shortlist"]["texts"]) == list(tried)


def test_torch_restores_such_a_bundle(bundle: Path) -> None:
    source = Translator(bundle).tokenizer.encode(texts()[0])
    wanted = Translator(bundle).engine.translate([source], DecodingOptions(beam_size=1, shortlist=False))
    assert restore(bundle).greedy([source], 2.0, 10) == [wanted[0][0].tokens]


def test_info_shows_them(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("info", str(bundle)) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("shortlist"))
    facts = read_bundle(bundle).config["provenance"]["shortlist"]["texts"]["valid"]
    assert f"BLEU {facts['bleu']:.2f} with it and {facts['bleu_whole']:.2f} without on valid" in line
    assert ("used unless" if read_bundle(bundle).generation.shortlist else "only when") in line
    assert exit_code("info", str(tiny_bundle.bundle_folder())) == 0
    assert "none; `kserve export --shortlist` learns one" in capsys.readouterr().out


def texts() -> list[str]:
    return [f"{who} schläft im Garten." for who in GERMAN]


def use_by_default(used: bool, settings: dict[str, Any]) -> None:
    settings["generation"]["shortlist"] = used


def test_the_default_and_its_opposite(bundle: Path, tmp_path: Path) -> None:
    for default in (True, False):
        copy = tmp_path / str(default)
        copy.mkdir()
        for file in bundle.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        tiny_bundle.edit_config(copy, partial(use_by_default, default))
        translator = Translator(copy)
        assert translator.options().shortlist is default
        explicit = {used: scores(translator, shortlist=used) for used in (True, False)}
        assert scores(translator) == explicit[default]
        assert explicit[True] != explicit[False]


def scores(translator: Translator, **options: Any) -> list[float]:
    """Of the engine itself: what a hardly trained model finds may be nothing that a translator hands on."""
    sources = [translator.tokenizer.encode(text) for text in texts()]
    found = translator.engine.translate(sources, translator.options(**options))
    return [one[0].score for one in found]


@pytest.mark.parametrize("used", [True, False])
def test_command_and_server_pass_the_option_on(
    bundle: Path, used: bool, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    wanted = Translator(bundle).translate(texts()[0], shortlist=used, loop_guard=4)
    flag = "--shortlist" if used else "--no-shortlist"
    assert exit_code("translate", "-m", str(bundle), "--json", flag, "--loop-guard", "4", texts()[0]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert (told["text"], told["score"]) == (wanted.text, pytest.approx(wanted.score, abs=1e-4))
    ask = {"text": texts()[0], "source": "de", "target": "en", "decoding": {"shortlist": used}}
    with serving(bundle) as server, server.client() as client:
        (answer,) = client.post("/v1/translate", json=ask).json()["translations"]
    assert answer["hypotheses"][0]["score"] == pytest.approx(wanted.score, abs=1e-4)


def test_a_model_without_lists_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    plain = tiny_bundle.bundle_folder()
    with pytest.raises(InvalidParameter, match="the model folder has none; export it with --shortlist"):
        Translator(plain).translate("Ein Hund.", shortlist=True)
    assert exit_code("translate", "-m", str(plain), "--shortlist", "Ein Hund.") == 2
    assert "shortlist is True" in capsys.readouterr().err
    ask = {"text": "Ein Hund.", "source": "de", "target": "en", "decoding": {"shortlist": True}}
    with serving(plain) as server, server.client() as client:
        answer = client.post("/v1/translate", json=ask)
    assert answer.status_code == 400
    assert "shortlist is True" in answer.text


def test_text_that_is_not_there_is_told(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("checkpoint.pt", "tokenizer.model"):
        (run / name).write_bytes((checkpoint.parent / name).read_bytes())
    command = ["export", str(run / "checkpoint.pt"), str(tmp_path / "out"), "--shortlist"]
    assert exit_code(*command, "--data", str(tmp_path)) == 2
    assert "cannot read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lists_that_do_not_fit_are_refused(bundle: Path, tmp_path: Path) -> None:
    def fresh(name: str) -> Path:
        (tmp_path / name).mkdir()
        for file in bundle.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        return tmp_path / name

    def shorten(settings: dict[str, Any]) -> None:
        settings["architecture"]["shortlist"]["tokens"] -= 1

    other_size, no_size, damaged = fresh("size"), fresh("none"), fresh("damaged")
    tiny_bundle.edit_config(other_size, shorten)
    with pytest.raises(BundleTensorError, match=r"shortlist.tokens is I32"):
        read_bundle(other_size)
    tiny_bundle.edit_config(no_size, lambda c: c["architecture"].pop("shortlist"))
    with pytest.raises((BundleTensorError, BundleConfigError), match="shortlist"):
        read_bundle(no_size)
    tiny_bundle.edit_tensors(damaged, lambda tensors: tensors["shortlist.first"].__setitem__(1, 10**6))
    with pytest.raises(EngineFailure, match="shortlist's tensors do not fit one another"):
        Translator(damaged)
