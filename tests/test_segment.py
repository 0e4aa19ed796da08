"""Cutting texts: nothing is lost, nothing is too long, the best places come first."""

from __future__ import annotations

import random

import pytest

from kserve.segment import Cutter, Part, has_letters


def words(text: str) -> int:
    """A stand-in for tokens: words, and a word of more than eight letters counts by fours."""
    return sum(max(1, -(-len(word) // 4)) if len(word) > 8 else 1 for word in text.split())


def cut(text: str, limit: int = 6, **options: bool) -> list[Part]:
    return Cutter(limit, words, "de", **options).cut(text)


def sentences(text: str, limit: int = 6, **options: bool) -> list[str]:
    return [part.text for part in cut(text, limit, **options) if part.translate]


@pytest.mark.parametrize("text", ["", " ", "\t", "😀", "42!", "…", "\n", "\r\n", "\0", " \u2028 ", "१२"])
def test_nothing_to_translate(text: str) -> None:
    assert sentences(text) == []
    assert "".join(part.text for part in cut(text)) == text


def test_lines_and_the_space_around_them_are_kept() -> None:
    assert cut("  Ein Hund. \r\n\n\tZwei\0Drei") == [
        Part("  ", False),
        Part("Ein Hund.", True),
        Part(" ", False),
        Part("\r\n\n\t", False),
        Part("Zwei", True),
        Part("\0", False),
        Part("Drei", True),
    ]


def test_a_line_is_cut_into_its_sentences_unless_the_caller_says_no() -> None:
    text = "Eins, zwei.  Drei z. B. am 3. Oktober! Fünf?"
    assert sentences(text) == ["Eins, zwei.", "Drei z. B. am 3. Oktober!", "Fünf?"]
    assert sentences(text, 60, split=False) == [text]
    assert "".join(part.text for part in cut(text)) == text


def test_the_dash_of_a_list_or_dialogue_is_kept() -> None:
    assert sentences("- Ein Hund.\n – Wo?\n-Nein\n* * *") == ["Ein Hund.", "Wo?", "-Nein"]


def test_a_line_break_is_only_space_where_the_caller_says_so() -> None:
    assert sentences("Ein Hund\nrennt. Er\n\nbellt.", lines=False) == ["Ein Hund\nrennt.", "Er", "bellt."]


def test_control_characters_are_kept_even_where_line_breaks_are_space() -> None:
    found = cut("Ein\nHund.\0\x1b Zwei.", lines=False)
    assert [part.text for part in found if not part.translate] == ["\0\x1b", " "]
    assert sentences("Ein\nHund.\0\x1b Zwei.", lines=False) == ["Ein\nHund.", "Zwei."]


def test_what_is_not_split_is_cut_at_sentence_marks_where_it_is_too_long() -> None:
    text = 'Ein Hund rennt. Er "bellt." Wir gehen. Es regnet heute sehr stark.'
    found = ['Ein Hund rennt. Er "bellt."', "Wir gehen.", "Es regnet heute sehr stark."]
    assert sentences(text, split=False) == found


def test_then_at_clause_marks_then_at_spaces() -> None:
    assert sentences("weil der Hund, den wir sahen, laut und lange und heftig bellte") == [
        "weil der Hund, den wir sahen,",
        "laut und lange und heftig bellte",
    ]
    assert sentences("a b c d e f g h") == ["a b c d e f", "g h"]


def test_a_word_without_spaces_is_cut_hard() -> None:
    word = "Donaudampfschifffahrtsgesellschaft" * 5
    found = sentences(word)
    assert "".join(found) == word
    assert all(words(part) <= 6 for part in found)


def test_combining_marks_stay_with_their_letter() -> None:
    for part in sentences("a\u0308" * 100):
        assert part[0] == "a"


def test_numbers_in_a_long_line_are_kept_as_they_are() -> None:
    parts = cut("Ein Hund rennt über die Wiese. 1, 2, 3, 4, 5, 6. Er bellt laut und sehr lange.")
    assert Part("1, 2, 3, 4, 5, 6.", False) in parts


def test_random_texts_lose_nothing_and_fit() -> None:
    generator = random.Random(11)
    alphabet = [
        "a",
        "Ä",
        "ß",
        " ",
        "  ",
        ".",
        ", ",
        "! ",
        "\n",
        "\r\n",
        "\t",
        "7",
        "😀",
        "…",
        "\u0308",
        "。",
        "\0",
    ]
    for _ in range(300):
        text = "".join(generator.choices(alphabet, k=generator.randrange(200)))
        parts = cut(text, 5)
        assert "".join(part.text for part in parts) == text
        assert all(words(part.text) <= 5 and has_letters(part.text) for part in parts if part.translate)
        assert not any("\n" in part.text for part in parts if part.translate)
