"""What must survive a translation: found, hidden behind masks, checked, put back."""

from __future__ import annotations

import random

import pytest

from kserve.text.protect import _PROTECTED, _SIGN, Unit, Units, localised, lost_numbers, masked, unit_spans


def found(text: str) -> list[str]:
    units = Units()
    taken = units.take(text)
    assert units.resolve(taken, str) == text
    return [units.resolve(taken[span.start : span.end], str) for span in unit_spans(taken, units)]


@pytest.mark.parametrize(
    ("text", "protected"),
    [
        ("Siehe https://example.org/a?b=c&d=%20#x. Ende", ["https://example.org/a?b=c&d=%20#x"]),
        ("(http://a.de/b), www.example.com/x!", ["http://a.de/b", "www.example.com/x"]),
        ("An a.b+c@d-e.org. Ende", ["a.b+c@d-e.org"]),
        ("Hallo {{ name }}, ${x} und {count}, {0}, {}!", ["{{ name }}", "${x}", "{count}", "{0}", "{}"]),
        ("%s von %d, %(n)s, %1$s, %05.2f", ["%s", "%d", "%(n)s", "%1$s", "%05.2f"]),
        ("50 % der Leute, 100%ig, 5 %.", []),
        ("Von @tom und @a@b.social zu #hund, nicht #1", ["@tom", "@a@b.social", "#hund"]),
        ("Ein &#228; und a_b_c mit _kursiv_", ["a_b_c"]),
        ("Ein \U000f0000 Zeichen", ["\U000f0000"]),
        ("Nichts. Gar nichts!", []),
    ],
)
def test_what_is_protected(text: str, protected: list[str]) -> None:
    assert found(text) == protected


def test_whatever_is_protected_holds_a_sign_of_it() -> None:
    """The quick look must pass over nothing that the pattern finds."""
    chance = random.Random(3)
    pieces = [*"@{}$#%_:/.-+*w ad3sf(),<>&\U000f0000", "www.", "://", "https", "ftp", "file", "x1", "ä"]
    seen = 0
    for _ in range(20_000):
        text = "".join(chance.choices(pieces, k=8))
        for match in _PROTECTED.finditer(text):
            seen += 1
            assert _SIGN.search(match.group()), text
    assert seen > 4_000


def test_masks_are_words_and_come_back() -> None:
    units = Units()
    taken = units.take("Hallo {{name}}, Tom hat %d Briefe von a@b.de.")
    hidden = masked(taken, unit_spans(taken, units), 0)
    assert hidden
    assert hidden.text == "Hallo Maria, Tom hat 57 Briefe von Peter."
    target = "Hello Maria, Tom has 57 letters from Peter."
    assert hidden.is_whole(target)
    assert units.resolve(hidden.restored(target), str) == "Hello {{name}}, Tom has %d letters from a@b.de."


@pytest.mark.parametrize(
    "target", ["Tom is here.", "Tom and Tom and Maria.", "Maria, Tommy.", "Maria Tom", "Tom Maria Tom"]
)
def test_a_translation_that_lost_something_is_not_whole(target: str) -> None:
    units = Units()
    taken = units.take("%s und %s")
    hidden = masked(taken, unit_spans(taken, units), 0)
    assert hidden
    assert hidden.is_whole("Tom and Maria")
    assert not hidden.is_whole(target)  # lost, doubled, or arguments in another order


def test_places_of_the_masked_text() -> None:
    units = Units()
    taken = units.take("Siehe https://example.org/lang jetzt")
    hidden = masked(taken, unit_spans(taken, units), 0)
    assert hidden
    for place, letter in enumerate(hidden.text):
        source = hidden.source_position(place)
        assert taken[source] == letter or hidden.masks[0].at <= place < hidden.masks[0].at + 3


def test_too_many_for_the_masks() -> None:
    units = Units()
    taken = units.take(" ".join(f"{{{{n{number}}}}}" for number in range(20)) + " Hund")
    assert masked(taken, unit_spans(taken, units), 0) is None


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("DAS IST SEHR WICHTIG!", "Das ist sehr wichtig!"),
        ("DIE STRASSE", "Die strasse"),
        ("NATO", "NATO"),
        ("USA NATO", "USA NATO"),
        ("Das ist NATO", "Das ist NATO"),
        ("«ACHTUNG HUND»", "«Achtung hund»"),
    ],
)
def test_capitals_are_hidden_from_the_model(text: str, seen: str) -> None:
    hidden = masked(text, [], 0)
    assert hidden
    assert hidden.text == seen
    assert hidden.restored("A dog") == ("A DOG" if hidden.shout else "A dog")


@pytest.mark.parametrize(
    ("source", "target", "lost"),
    [
        ("1.234,50 Euro am 3. Mai um 12:30", "1,234.50 euros on May 3 at 12:30", []),
        ("10 000 Leute, 4711", "10 000 people, 4711", []),
        ("1.250.000", "1,250,000", []),
        ("1.250.000", "1250000", []),
        ("1.250.000", "1.250,000", ["1.250.000"]),
        ("3,5", "35", ["3,5"]),
        ("Ich habe 2 Hunde", "I have two dogs", []),
        ("Ich habe 22 Hunde", "I have two dogs", ["22"]),
        ("7 und 7", "7", ["7"]),
        ("Kapitel ٣", "Chapter", ["٣"]),
    ],
)
def test_numbers_that_are_lost(source: str, target: str, lost: list[str]) -> None:
    assert [source[span.start : span.end] for span in lost_numbers(source, target, "en")] == lost


def test_numbers_are_written_as_the_target_does() -> None:
    assert localised("1.250.000", "de", "en") == "1,250,000"
    assert localised("1,250,000", "en", "de") == "1.250.000"
    assert localised("3.10.1990", "de", "en") == "3.10.1990"
    assert localised("1.250.000", "de", "fr") == "1.250.000"


def test_markup_is_put_back_unescaped_and_text_is_not() -> None:
    units = Units()
    text = "a < " + units.add(Unit("<code>x</code>", "name", raw=True)) + units.take("https://a.b/?c&d")
    assert units.resolve(text, lambda part: part.replace("&", "&amp;").replace("<", "&lt;")) == (
        "a &lt; <code>x</code>https://a.b/?c&amp;d"
    )


def test_any_text_comes_back() -> None:
    generator = random.Random(5)
    alphabet = [*"aB1 .@{}%$#<>/:_-&", "https://", "www.", "{{", "}}", "\U000f0001", "\n", "ß"]
    for _ in range(500):
        found("".join(generator.choices(alphabet, k=generator.randrange(60))))


@pytest.mark.parametrize(
    "piece", ["a@", "{", "%", "#a", "a.", "1.", "@a-", "https://a..", "www.a.", "-", "${", "a_"]
)
def test_long_texts_take_linear_time(piece: str) -> None:
    """A quadratic pattern would take minutes for this."""
    Units().take(piece * 200_000)
