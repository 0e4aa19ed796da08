"""HTML, XML, Markdown and text with tags, through the real engine: every tag once, the rest as it was."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest

from kserve import Translator
from kserve.text.blocks import Block, Document, pieces_of
from kserve.text.files.markdown import parse_markdown
from kserve.text.html import parse_html
from kserve.text.job import Translated, Wish, translate
from kserve.text.place import TOKEN, Word, placed
from kserve.text.plain import parse_plain
from kserve.text.tags import tags
from kserve.text.xml import XmlRules, parse_xml


def run(translator: Translator, *documents: Document, wish: Wish | None = None) -> list[Translated]:
    """The steps of a job, driven by the engine."""
    steps = translate(documents, translator.codec, wish or Wish())
    options = translator.options(attention=True, beam_size=1)
    found: Any = None
    try:
        while True:
            batch = steps.send(found)
            found = translator.engine.translate([one.ids for one in batch], options) if batch else []
    except StopIteration as done:
        result: list[Translated] = done.value
        return result


def raw(document: Document) -> str:
    """A document as it was."""
    return "".join(piece if isinstance(piece, str) else raw(pieces_of(piece.raw)) for piece in document)


def words_of(source: str, target: str) -> list[Word]:
    """A translation written as word=source word for which it stands, with spaces between."""
    words: list[Word] = []
    for pair in target.split():
        text, _, word = pair.partition("=")
        is_mark = not text[0].isalnum()
        words += [] if is_mark or not words else [Word(" ")]
        words.append(Word(text, (source.index(word),) if word else ()))
    return words


def show(document: Document) -> str:
    return "".join(str(piece) for piece in document)


def block(document: Document) -> Block:
    (found,) = [piece for piece in document if isinstance(piece, Block)]
    return found


def test_tags_follow_their_words() -> None:
    page = block(parse_html("Der <b>große</b> Hund <i>rennt</i>."))
    words = words_of(page.text, "Runs=rennt the=Der dog=Hund big=große .=.")
    assert show(placed(page, words)) == "<i>Runs</i> the dog <b>big</b>."


def test_a_tag_stays_in_one_piece_around_most_of_its_words() -> None:
    page = block(parse_html("<b>Ich habe</b> es gesehen"))
    words = words_of(page.text, "I=Ich saw=gesehen it=es have=habe")
    assert show(placed(page, words)) == "<b>I</b> saw it have"


def test_nested_tags_stay_nested_and_marks_stay_outside() -> None:
    page = block(parse_html("Ein <a href='x'>sehr <b>großer</b> Hund</a>!"))
    words = words_of(page.text, "A=Ein very=sehr big=großer dog=Hund !=Hund")
    assert show(placed(page, words)) == "A <a href='x'>very <b>big</b> dog</a>!"


def test_a_tag_with_no_word_keeps_one_near_its_place() -> None:
    page = block(parse_html("Der <b>Hund</b> rennt"))
    assert (
        show(placed(page, [Word("The"), Word(" "), Word("dog"), Word(" "), Word("runs")]))
        == "The <b>dog</b> runs"
    )


def test_empty_elements_go_with_the_word_they_touch() -> None:
    page = block(parse_html("Der Hund<img src=a> rennt, <wbr>sagt er"))
    words = words_of(page.text, "He=er says=sagt the=Der dog=Hund runs=rennt")
    assert show(placed(page, words)) == "He <wbr>says the dog<img src=a> runs"


@pytest.mark.parametrize(
    "page",
    [
        "<!DOCTYPE html><html><head><title>Hund</title><style>p{}</style></head><p>Ein Hund.</p></html>",
        "<p>Ein <b>Hund</b> rennt.<br>Wo ist er?</p>\n\n<ul><li>Eins<li>Zwei</ul>",
        "<p>Ein <code>Hund</code> und <span translate='no'>die Wiese</span> hier.</p>",
        "<div translate=no><p>Ein Hund</p></div><p class='notranslate a'>Hund</p><p>Ein Hund</p>",
        "Ein <b><i>Hund</b></i> rennt</p> <p>Wo <b>ist<p>er</b>?",
        "<p>Ein <b>Hund &amp; eine&nbsp;Frau &lt;3</p>",
        "<a <b>Hund</b>",
        "<p title='Ein Hund > Frau' data-x=\"<b>\">Ein Hund</p>",
        "<script>if (a < b) { 'Ein Hund' }</script><pre>Ein\n  Hund</pre><textarea>Ein Hund</textarea>",
        "Ein Hund <!-- Kommentar <b> --> rennt <![CDATA[x]]> <?php echo 1 ?> hier",
        "<svg><text>Ein Hund</text></svg> Ein Hund <math><mi>x</mi></math>",
        "x < y und y > z & <3",
        "<" * 50 + "Ein Hund",
        "<b>" * 500 + "Ein Hund" + "</b>" * 500,
    ],
)
def test_every_tag_of_html_is_there_once(translator: Translator, page: str) -> None:
    document = parse_html(page)
    assert raw(document) == page
    (found,) = run(translator, document)

    def markup(text: str) -> Counter[str]:
        return Counter(tag.raw for tag in tags(text, is_html=True) if tag.kind != "text")

    assert markup(found.texts[0]) == markup(page)


def test_what_is_not_translated_is_byte_equal(translator: Translator) -> None:
    kept = (
        "<style>\n p { a: 'x' } </style>\n<p> 1 &nbsp; 3&hellip; </p>\n<!-- a -->\n<pre> Ein  Hund\n</pre>\t"
    )
    (found,) = run(translator, parse_html(kept + "<p>Ein Hund</p>" + kept))
    assert found.texts[0].startswith(kept)
    assert found.texts[0].endswith(kept)


def test_entities_are_kept_sane(translator: Translator) -> None:
    (found,) = run(
        translator, parse_html("<p>Ein Hund {{a&amp;b}} &lt;x&gt; https://a.b/?c&amp;d=1 Frau</p>")
    )
    assert "{{a&amp;b}}" in found.texts[0]
    assert "https://a.b/?c&amp;d=1" in found.texts[0]
    assert not re.search(r"&(?!amp;|lt;|gt;|nbsp;)", found.texts[0])


def test_random_html_loses_nothing(translator: Translator) -> None:
    generator = random.Random(7)
    tags_and_words = "<b> </b> <i> </i> <p> </p> <br> <x/> Ein Frau. &amp; < > <!-- --> \" <a_href=' '> </a>"
    parts = [*tags_and_words.replace("_", "\0").split(), "{{n}}", "12"]
    parts = [part.replace("\0", " ") for part in parts] + ["<code>", "</code>", "\n", " ", "Ein Hund"]
    pages = ["".join(generator.choices(parts, k=generator.randrange(1, 25))) for _ in range(150)]
    documents = [parse_html(page) for page in pages]
    assert [raw(document) for document in documents] == pages
    for page, found in zip(pages, run(translator, *documents), strict=True):
        told = [one.raw for one in tags(page, is_html=True) if one.kind not in ("text",)]
        got = [one.raw for one in tags(found.texts[0], is_html=True) if one.kind not in ("text",)]
        assert Counter(told) == Counter(got), page


@pytest.mark.parametrize(
    "piece", ["<", "<a", "<!--", "<a b='", "</", "<b>", "<b>a", "<i/>", "a<i/>", "<title>", "&"]
)
def test_broken_html_takes_linear_time(piece: str) -> None:
    """A quadratic parser would take minutes for this."""
    assert raw(parse_html(piece * 20_000)) == piece * 20_000


def test_many_elements_are_placed_in_reasonable_time() -> None:
    page = block(parse_html("<i/>a <b>b</b> " * 3000))
    words = [Word(match.group(), (match.start(),)) for match in TOKEN.finditer(page.text)]
    assert show(placed(page, words)).count("<b>") == 3000


def test_xml_by_its_outline_and_by_rules(translator: Translator) -> None:
    source = "<doc>\n<h>Ein Hund</h><p>Die <x id='1'/>Frau <k>rennt <b>x</b></k> heute.</p></doc>"
    document = parse_xml(source, XmlRules(kept=frozenset({"k"})))
    assert raw(document) == source
    assert sum(isinstance(piece, Block) for piece in document) == 2
    (found,) = run(translator, document)
    assert "<k>rennt <b>x</b></k>" in found.texts[0]
    assert found.texts[0].startswith("<doc>\n<h>")
    one = parse_xml("<a>Ein</a> <b>Hund</b>", XmlRules(outline=False))
    assert sum(isinstance(piece, Block) for piece in one) == 1
    split = parse_xml("Ein <par>Hund</par> rennt", XmlRules(splitting=frozenset({"par"})))
    assert sum(isinstance(piece, Block) for piece in split) == 3


def test_tags_in_plain_text(translator: Translator) -> None:
    (found,) = run(translator, parse_plain("Ein <x/> Hund <b>rennt</b>.\n1 < 2 und a > b"))
    assert Counter(re.findall(r"<[^<>]*>", found.texts[0])) >= Counter(["<x/>", "<b>", "</b>"])
    assert found.texts[0].count("\n") == 1


MARKDOWN = """---
title: Ein Hund
---
# Ein Hund #

Ein **Hund** rennt über die [Wiese](http://a.b/c "Titel"), sagt _sie_.
Wo ist `der Hund` hier?\x20\x20
Die Frau ![Bild](x.png) liest.

* Ein Punkt
  und weiter
1. [ ] Aufgabe

> Ein Zitat
> hier

```
Ein Hund
```

    Ein Hund

| Name | Ort |
|------|:---:|
| Hund | 12 |

<div>Ein Hund</div>

[ref]: http://a.b "Ein Hund"
***
Ende\\* <br> a_b_c https://a.b
"""


def test_markdown_keeps_its_structure(translator: Translator) -> None:
    document = parse_markdown(MARKDOWN)
    assert raw(document) == MARKDOWN
    (found,) = run(translator, document)
    text = found.texts[0]
    for kept in ("---\ntitle: Ein Hund\n---\n# ", "](http://a.b/c \"Titel\")", "`der Hund`", "![Bild](x.png)",
                 "1. [ ] ", "```\nEin Hund\n```", "\n    Ein Hund\n", "|------|:---:|", "<div>Ein Hund</div>",
                 "[ref]: http://a.b \"Ein Hund\"", "\n***\n", "<br>", "a_b_c", "https://a.b"):  # fmt: skip
        assert kept in text
    assert text.replace("***", "").count("**") == 2


@pytest.mark.parametrize(
    "source", ["", "\n", "# ", "| a |\n|---|\n", "a\r\nb\r\n", "*", "[](", "`", "\0", "a\u2028b"]
)
def test_odd_markdown_comes_back(source: str) -> None:
    assert raw(parse_markdown(source)) == source
