"""The library API on a small real bundle: shapes of answers, what is kept, options, bad input."""

from __future__ import annotations

import math
import random
import threading
from pathlib import Path

import pytest
import tiny_bundle

from kserve import Translation, Translator, _engine
from kserve.errors import (
    BundleCorrupt,
    BundleMissing,
    EngineFailure,
    InvalidParameter,
    SettingsError,
    TextTooLong,
)
from kserve.segment import Cutter

TEXTS = [
    "Ein Hund rennt über die Wiese.",
    "Wo ist der nächste Bahnhof?",
    "Er trinkt jeden Abend eine Tasse Tee.",
    "Zwei Kinder",
    "",
    "Morgen fahren wir mit dem Zug nach Hamburg. Das Wetter wird heute schön, sagt sie.",
]


def test_a_text_gives_a_translation_a_list_gives_a_list(translator: Translator) -> None:
    one = translator.translate(TEXTS[0])
    many = translator.translate(TEXTS)
    assert isinstance(one, Translation)
    assert one.source == TEXTS[0]
    assert [answer.source for answer in many] == TEXTS
    assert many[0] == one
    assert translator.translate([]) == []


def test_a_batch_equals_singles_in_any_order_and_on_any_threads(translator: Translator) -> None:
    texts = [f"{text} {number}" for number in range(10) for text in TEXTS]
    singles = {text: translator.translate(text) for text in texts}
    random.Random(3).shuffle(texts)
    for threads in (1, 2):
        again = Translator(tiny_bundle.bundle_folder(), threads=threads)
        assert again.translate(texts) == [singles[text] for text in texts]


def test_every_isa_runs_and_says_so(isa: str) -> None:
    translator = Translator(tiny_bundle.bundle_folder(), isa=isa, threads=1)
    assert translator.isa == isa
    assert translator.translate(TEXTS[0]).text


def test_a_dense_model_runs_too(tmp_path: Path) -> None:
    dense = Translator(tiny_bundle.write(tmp_path / "dense", "dense"), threads=1)
    assert dense.translate(TEXTS[0], beam_size=3, n_best=3).text


def test_n_best_is_sorted_and_ends_are_consistent(translator: Translator) -> None:
    answer = translator.translate(TEXTS[0], beam_size=4, n_best=4)
    scores = [one.score for one in answer.hypotheses]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    assert (answer.text, answer.score) == (answer.hypotheses[0].text, answer.hypotheses[0].score)
    assert answer.truncated == answer.hypotheses[0].truncated
    # The beam is raised when only n_best is given.
    assert len(translator.translate(TEXTS[0], n_best=5).hypotheses) == 5


def test_length_penalty_changes_the_score_as_defined(translator: Translator) -> None:
    pieces = translator.tokenizer.pieces(translator.tokenizer.encode(TEXTS[0])[:-1])
    for penalty in (0.0, 0.6, 1.0):
        (found,) = translator.translate_batch([pieces], beam_size=1, length_penalty=penalty)[0]
        total = sum(found.token_log_probabilities)
        assert math.isclose(found.log_probability, total, rel_tol=1e-6)
        assert math.isclose(found.score, total / len(found.token_log_probabilities) ** penalty, rel_tol=1e-6)


def test_max_length_cuts_and_says_so(translator: Translator) -> None:
    for length in (1, 2, 5):
        (found,) = translator.translate_batch([["▁E", "in"]], beam_size=1, max_length=length)[0]
        assert len(found.tokens) <= length
        assert found.truncated or len(found.tokens) < length


def test_tokens_and_text_agree(translator: Translator) -> None:
    pieces = translator.tokenizer.pieces(translator.tokenizer.encode(TEXTS[1])[:-1])
    found = translator.translate_batch([pieces, pieces[:2]], beam_size=2, n_best=2)
    text = translator.translate(TEXTS[1], beam_size=2, n_best=2)
    assert [len(hypotheses) for hypotheses in found] == [2, 2]
    ids = translator.tokenizer.ids(found[0][0].tokens)
    assert translator.tokenizer.decode(ids) == text.text
    assert found[0][0].score == text.score


@pytest.mark.parametrize(
    "text", ["", " ", "   \t ", "😀", "😀 👍🏽 !", "12:30", "…", "\n", "\r\n\r\n", "\0", "Привет мир"]
)
def test_nothing_to_translate_comes_back_as_it_is(translator: Translator, text: str) -> None:
    answer = translator.translate(text, n_best=2)
    assert answer.text == text
    assert answer.score == 0.0
    assert not answer.truncated


@pytest.mark.parametrize("mark", ["\n", "\r\n", "\n\n", "\r", "\0", "\t", "\u2028", " \n  "])
def test_what_parts_lines_is_kept(translator: Translator, mark: str) -> None:
    left, right = (translator.translate(text).text for text in TEXTS[:2])
    answer = translator.translate(f"  {TEXTS[0]}{mark}{TEXTS[1]} ")
    assert answer.text == f"  {left}{mark}{right} "


def test_a_lone_surrogate_comes_back_as_the_replacement_character(translator: Translator) -> None:
    assert translator.translate("\ud800").text == "\ufffd"
    assert translator.translate("\ud800 Hund").text == translator.translate("\ufffd Hund").text


def test_a_long_line_is_translated_whole(translator: Translator) -> None:
    text = "Ein Hund rennt über die Wiese. " * 50
    limit = translator.bundle.generation.max_source_tokens
    parts = Cutter(limit, translator.tokenizer.count, "de").cut(text)
    assert sum(part.translate for part in parts) > 5
    wanted = [translator.translate(part.text).text if part.translate else part.text for part in parts]
    assert translator.translate(text).text == "".join(wanted)


@pytest.mark.parametrize("character", ["a", "漢"])
def test_a_hundred_thousand_characters_in_one_line(translator: Translator, character: str) -> None:
    text = character * 100_000
    answer = translator.translate(text, beam_size=1)
    limit = translator.bundle.generation.max_source_tokens
    known = translator.tokenizer.knows(translator.tokenizer.encode(character))
    # Known text is read in full, a limit of tokens at a time; unknown text comes back.
    assert len(answer.text) > 100_000 / limit if known else answer.text == text


def test_several_python_threads_at_once(translator: Translator) -> None:
    wanted = translator.translate(TEXTS)
    found: dict[int, list[Translation]] = {}

    def work(number: int) -> None:
        for _ in range(5):
            found[number] = translator.translate(TEXTS)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == wanted for number in range(4))


@pytest.mark.parametrize("value", [0, -1, 65, 2.0, True, "2"])
def test_impossible_beam_size(translator: Translator, value: object) -> None:
    with pytest.raises(
        InvalidParameter, match=f"beam_size is {value!r}; expected a whole number from 1 to 64"
    ):
        translator.translate("Hund", beam_size=value)  # type: ignore[call-overload]


def test_impossible_options(translator: Translator) -> None:
    with pytest.raises(InvalidParameter, match=r"n_best is 3; it can be at most beam_size \(2\)"):
        translator.translate("Hund", beam_size=2, n_best=3)
    with pytest.raises(InvalidParameter, match="n_best is 0"):
        translator.translate("Hund", n_best=0)
    with pytest.raises(InvalidParameter, match="length_penalty is nan"):
        translator.translate("Hund", length_penalty=math.nan)
    with pytest.raises(InvalidParameter, match="max_length is 64; expected a whole number from 1 to 63"):
        translator.translate("Hund", max_length=64)
    with pytest.raises(TypeError, match="beams"):
        translator.translate("Hund", beams=2)  # type: ignore[call-overload]


def test_texts_must_be_text(translator: Translator) -> None:
    with pytest.raises(InvalidParameter, match="text 1 is int; expected str"):
        translator.translate(["Hund", 3])  # type: ignore[list-item]


def test_too_many_pieces_are_an_error_with_the_limit(translator: Translator) -> None:
    with pytest.raises(TextTooLong, match="sentence 1 has 64 pieces; the model reads at most 63"):
        translator.translate_batch([["▁E"], ["▁E"] * 64])


def test_unknown_isa_lists_the_valid_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"'sse9' .* use one of: .*scalar"):
        Translator(tiny_bundle.bundle_folder(), isa="sse9")
    monkeypatch.setenv("KSERVE_ISA", "mmx")
    with pytest.raises(SettingsError, match=r"'mmx' .KSERVE_ISA."):
        Translator(tiny_bundle.bundle_folder())


def test_the_environment_chooses_isa_model_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KSERVE_ISA", "scalar")
    monkeypatch.setenv("KSERVE_MODEL", str(tiny_bundle.bundle_folder()))
    monkeypatch.setenv("KSERVE_THREADS", "1")
    translator = Translator()
    assert (translator.isa, translator.threads) == ("scalar", 1)
    assert translator.bundle.name == "tiny-de-en"


def test_a_broken_bundle_is_refused_at_once(tmp_path: Path) -> None:
    path = tiny_bundle.copy_to(tmp_path / "model")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleCorrupt, match="0 bytes"):
        Translator(path)
    with pytest.raises(BundleMissing, match="nowhere"):
        Translator(tmp_path / "nowhere")


def test_engine_errors_are_ours(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineFailure):
        translator._run([[9999, 2]], translator.options())
    assert issubclass(_engine.EngineError, ValueError)
