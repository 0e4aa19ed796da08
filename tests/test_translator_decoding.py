"""The decoding options of the library: what they do to texts, and what is wrong with impossible ones."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import tiny_bundle

from kserve import Cancelled, CancelToken, Translator
from kserve.errors import InvalidParameter, TextTooLong

TEXT = "Ein Hund rennt über die Wiese."
TWO = "Wo ist der nächste Bahnhof?\nEr trinkt jeden Abend eine Tasse Tee."


def pieces(translator: Translator, text: str) -> list[str]:
    return translator.tokenizer.pieces(translator.tokenizer.encode(text)[:-1])


def test_a_prefix_begins_the_text(translator: Translator) -> None:
    for text in (TEXT, TWO):
        assert translator.translate(text, prefix="The dog").text.startswith("The dog")
    lines = translator.translate(TWO, prefix="The dog").text.split("\n")
    assert lines[1] == translator.translate(TWO.split("\n")[1]).text  # only the first segment has it
    assert translator.translate("😀", prefix="The dog").text == "😀"


def test_every_sentence_of_a_batch_has_its_own_prefix(translator: Translator) -> None:
    batch, starts = [pieces(translator, TEXT)] * 2, [pieces(translator, "The dog"), []]
    found = translator.translate_batch(batch, starts, beam_size=2)
    assert list(found[0][0].tokens[: len(starts[0])]) == starts[0]
    assert found[1] == translator.translate_batch(batch, beam_size=2)[1]


def test_attention_and_alignment_of_pieces(translator: Translator) -> None:
    source = pieces(translator, TEXT)
    (one, *_) = translator.translate_batch([source], attention=True)[0]
    assert len(one.attention) == len(one.token_log_probabilities)
    assert all(len(row) == len(source) + 1 for row in one.attention)
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in one.attention)
    assert len(one.alignment) == len(one.tokens)
    assert all(0 <= place < len(source) for place in one.alignment)
    assert translator.translate_batch([source])[0][0].attention == ()


def test_scores_are_those_of_the_translation(translator: Translator) -> None:
    found = translator.translate(TEXT, beam_size=1, min_length_ratio=0.5)
    scores = translator.score([TEXT, TEXT], ["The dog", ""])
    assert [len(row) for row in scores] == [len(translator.tokenizer.encode("The dog")), 1]
    assert all(value < 0 for row in scores for value in row)
    assert found.text
    with pytest.raises(InvalidParameter, match="1 sources and 2 targets"):
        translator.score([TEXT], ["a", "b"])
    with pytest.raises(TextTooLong, match="pair 0 has 64 and 65 tokens"):
        translator.score(["a" * 63], ["a" * 64])


def test_samples_are_many_and_repeat_with_their_seed(translator: Translator) -> None:
    first = translator.translate(TEXT, temperature=20.0, top_p=0.9, seed=1, n_best=8)
    assert len({one.text for one in first.hypotheses}) > 4
    assert translator.translate(TEXT, temperature=20.0, top_p=0.9, seed=1, n_best=8) == first
    assert translator.translate(TEXT, temperature=20.0, top_p=0.9, seed=2, n_best=8) != first


def test_the_loop_guard_says_so(translator: Translator) -> None:
    texts = list(tiny_bundle.SENTENCES)
    options: dict[str, Any] = {"beam_size": 1, "max_length": 40, "min_length": 40}
    guarded = translator.translate(texts, loop_guard=3, **options)
    looped = [answer.hypotheses[0] for answer in guarded if answer.hypotheses[0].looped]
    assert looped, "random weights are expected to repeat themselves"
    assert all(one.truncated for one in looped)
    assert not any(answer.hypotheses[0].looped for answer in translator.translate(texts, **options))


def test_suppressed_pieces_never_come(translator: Translator) -> None:
    (one, *_) = translator.translate_batch([pieces(translator, TEXT)], beam_size=1)[0]
    (other, *_) = translator.translate_batch(
        [pieces(translator, TEXT)], beam_size=1, suppress=sorted(set(one.tokens))
    )[0]
    assert not set(one.tokens) & set(other.tokens)


def test_tokens_are_told_with_text_and_segment(translator: Translator) -> None:
    told: dict[tuple[int, int], list[str]] = {}

    def tell(text: int, segment: int, piece: str) -> None:
        told.setdefault((text, segment), []).append(piece)

    texts = [TEXT, "😀", TWO]
    answers = translator.translate(texts, on_token=tell)
    assert set(told) == {(0, 0), (2, 0), (2, 1)}
    spelled = {
        place: translator.tokenizer.decode(translator.tokenizer.ids(found)[:-1])
        for place, found in told.items()
    }
    assert spelled[0, 0] == answers[0].text
    assert f"{spelled[2, 0]}\n{spelled[2, 1]}" == answers[2].text
    assert answers == translator.translate(texts, beam_size=1)


def test_cancelled_calls_raise_ours(translator: Translator) -> None:
    token = CancelToken()
    canceller = threading.Thread(target=token.cancel)
    canceller.start()
    canceller.join()
    with pytest.raises(Cancelled, match="cancelled"):
        translator.translate(TEXT, cancel=token)


def test_the_deadline_is_told(translator: Translator) -> None:
    late = translator.translate([TEXT, "😀"], deadline=1e-6)
    assert (late[0].hypotheses[0].timed_out, late[0].truncated, late[0].text) == (True, True, "")
    assert late[1].text == "😀"
    assert not late[1].hypotheses[0].timed_out
    in_time = translator.translate(TEXT, deadline=60.0)
    assert in_time == translator.translate(TEXT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0.5}, "patience is 0.5; expected a number from 1 to 10"),
        ({"coverage_penalty": "1"}, "coverage_penalty is '1'"),
        ({"early_stop": 1}, "early_stop is 1; expected True or False"),
        ({"min_length": 5, "max_length": 4}, "min_length is 5; expected a whole number from 0 to 4"),
        ({"min_length_ratio": -1}, "min_length_ratio is -1"),
        ({"max_length_ratio": float("inf")}, "max_length_ratio is inf"),
        ({"no_repeat_ngram": -1}, "no_repeat_ngram is -1"),
        ({"repetition_penalty": 0.5}, "repetition_penalty is 0.5; expected a number from 1 to 100"),
        ({"loop_guard": 1}, "loop_guard is 1"),
        ({"suppress": "the"}, "suppress is str; expected a list"),
        ({"suppress": ["不"]}, "suppress holds '不'"),
        ({"suppress": ["</s>"]}, "suppress holds '</s>'"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": 1.0, "beam_size": 2}, "beam_size is 2; with sampling .* it can only be 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"prefix": 3}, "prefix is int; expected str"),
        ({"prefix": "不"}, "prefix '不' holds characters"),
        ({"prefix": "The dog", "max_length": 2}, "prefix 0 has .* tokens, .* raise max_length"),
        ({"deadline": 0}, "deadline is 0"),
        ({"cancel": True}, "cancel is bool; expected a kserve.CancelToken"),
        ({"on_token": 3}, "on_token is 3; expected a function"),
        ({"on_token": print, "beam_size": 2}, "on_token with 2 hypotheses"),
    ],
)
def test_impossible_option(translator: Translator, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        translator.translate(TEXT, **options)


def test_as_many_prefixes_as_sentences(translator: Translator) -> None:
    with pytest.raises(InvalidParameter, match="2 prefixes for 1 sentences"):
        translator.translate_batch([["▁E"]], [[], []])
