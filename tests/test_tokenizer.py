"""Text to ids and back, and what cannot be text."""

from __future__ import annotations

import pytest
import tiny_bundle

from kserve.errors import BundleConfigError, BundleCorrupt, InvalidParameter
from kserve.tokenizer import END, UNKNOWN, Tokenizer, clean, decode_utf8

VOCAB = tiny_bundle.config()["architecture"]["vocab_size"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(tiny_bundle.tokenizer_model(), VOCAB)


@pytest.mark.parametrize("text", tiny_bundle.SENTENCES)
def test_text_survives_the_round_trip(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[-1] == END
    assert tokenizer.decode(ids) == text
    assert tokenizer.ids(tokenizer.pieces(ids[:-1])) == ids
    assert tokenizer.count(text) == len(ids)


def test_empty_text_is_the_end_alone(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("") == [END]
    assert tokenizer.decode([]) == ""
    assert not tokenizer.knows([END])


def test_special_ids_stand_for_nothing(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("Ein Hund")
    assert tokenizer.decode([1, *ids, 3, 0]) == "Ein Hund"


def test_another_script_is_unknown(tokenizer: Tokenizer) -> None:
    assert UNKNOWN in tokenizer.encode("Привет")
    assert not tokenizer.knows(tokenizer.encode("Привет"))
    assert tokenizer.knows(tokenizer.encode("Hund"))


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Hund", "Hund"),
        ("\ud800Hund", "\ufffdHund"),
        ("Hund\udfff", "Hund\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("a\0b", "a\0b"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_lone_surrogates_become_the_replacement_character(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "\ufeff", "\U0010ffff", "\u200b", "a" * 10_000])
def test_any_text_can_be_encoded(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids[-1] == END
    assert all(0 <= token < VOCAB for token in ids)


@pytest.mark.parametrize("data", [b"\xff", b"a\xc3", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"])
def test_bytes_that_are_not_utf8_are_replaced(data: bytes) -> None:
    assert "\ufffd" in decode_utf8(data)


def test_a_token_must_be_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidParameter, match="a token is 7; expected pieces"):
        tokenizer.ids([7])  # type: ignore[list-item]


def test_a_broken_model_is_refused() -> None:
    with pytest.raises(BundleCorrupt, match="no SentencePiece model"):
        Tokenizer(b"not a model", VOCAB)


def test_a_tokenizer_of_another_size_is_refused() -> None:
    with pytest.raises(
        BundleConfigError, match=f"has {VOCAB} pieces, config.json says vocab_size {VOCAB + 1}"
    ):
        Tokenizer(tiny_bundle.tokenizer_model(), VOCAB + 1)
