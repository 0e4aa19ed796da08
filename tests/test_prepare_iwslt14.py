"""`kserve prepare iwslt14` on files of the official archive's form, made here."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from command_line import exit_code

from kserve.prepare.archive import CorpusError
from kserve.prepare.iwslt14 import TEST_SETS, prepare
from kserve.train.recipe import load_recipe

SETS = {name: [(f"Satz {i} aus {name}.", f"Sentence {i} of {name}.") for i in range(3)] for name in TEST_SETS}


def talk(number: int, pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """One talk of the tagged training files; what is about it differs from side to side."""
    german = [
        f"<url>http://example.org/talks/lang/de/{number}.html</url>",
        "<keywords>talks, Wissenschaft</keywords>",
        f"<talkid>{number}</talkid>",
        f"<title>Rednerin {number}: Über Bäume</title>",
        f"<description>Ein Vortrag &amp; eine Frage, Nummer {number}.</description>",
    ]
    english = [
        f"<url>http://example.org/talks/{number}.html</url>",
        "<keywords>talks, science</keywords>",
        f"<talkid>{number}</talkid>",
        f"<title>Speaker {number}: On trees</title>",
        f"<description>A talk &amp; a question, number {number}.</description>",
    ]
    return german + [pair[0] for pair in pairs], english + [pair[1] for pair in pairs]


def sentences(count: int) -> list[tuple[str, str]]:
    return [(f"Das ist der Satz Nummer {i}.", f"This is sentence number {i}, yes.") for i in range(count)]


DROPPED = [
    ("", "An empty side."),
    ("Ein Wort.", "Far more than one and a half times as many words as that."),
    ("lang " * 176, "long " * 176),
]


def write_corpus(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """The archive's folder de-en, as the official archive unpacks."""
    folder = folder / "de-en"
    folder.mkdir(parents=True)
    german, english = (
        first + second for first, second in zip(talk(1, pairs[:40]), talk(2, pairs[40:]), strict=True)
    )
    for language, lines in (("de", german), ("en", english)):
        (folder / f"train.tags.de-en.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, segments in SETS.items():
        for side, language in enumerate(("de", "en")):
            body = "\n".join(f'<seg id="{i}"> {pair[side]} </seg>' for i, pair in enumerate(segments, 1))
            text = f'<?xml version="1.0"?>\n<mteval>\n<doc docid="1">\n{body}\n</doc>\n</mteval>\n'
            (folder / f"IWSLT14.{name}.de-en.{language}.xml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path, sentences(60) + DROPPED)


def read(folder: Path, prefix: str) -> list[tuple[str, str]]:
    sides = [(folder / f"{prefix}.{code}").read_text(encoding="utf-8").split("\n") for code in ("de", "en")]
    assert [side.pop() for side in sides] == ["", ""]
    return list(zip(*sides, strict=True))


def test_standard_split(corpus: Path, tmp_path: Path) -> None:
    summary = prepare(corpus, tmp_path / "out")
    # In order: title, description and 40 sentences of the first talk, then the second's; three are dropped.
    everything = [
        ("rednerin 1: über bäume", "speaker 1: on trees"),
        ("ein vortrag & eine frage, nummer 1.", "a talk & a question, number 1."),
        *((german.lower(), english.lower()) for german, english in sentences(60)[:40]),
        ("rednerin 2: über bäume", "speaker 2: on trees"),
        ("ein vortrag & eine frage, nummer 2.", "a talk & a question, number 2."),
        *((german.lower(), english.lower()) for german, english in sentences(60)[40:]),
    ]
    assert read(tmp_path / "out", "iwslt14-valid") == [everything[22], everything[45]]
    assert read(tmp_path / "out", "iwslt14-train") == everything[:22] + everything[23:45] + everything[46:]
    assert summary.pairs == {"iwslt14-train": 62, "iwslt14-valid": 2, "iwslt14-test": 15}
    assert summary.dropped == {
        "with an empty side": 1,
        "with a side 1.5 times as long as the other": 1,
        "of more than 175 tokens": 1,
    }
    assert len(summary.sha256) == 6
    for name, digest in summary.sha256.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


def test_five_sets_make_the_test_in_order(corpus: Path, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", keep_case=True)
    assert read(tmp_path / "out", "iwslt14-test") == [pair for name in TEST_SETS for pair in SETS[name]]


def test_packed_archive_gives_the_same(corpus: Path, tmp_path: Path) -> None:
    packed = tmp_path / "de-en.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(corpus, "de-en")
    assert prepare(packed, tmp_path / "a").sha256 == prepare(corpus, tmp_path / "b").sha256


def test_apostrophes_and_entities_of_the_test_sets(corpus: Path, tmp_path: Path) -> None:
    file = corpus / "IWSLT14.TED.dev2010.de-en.en.xml"
    file.write_text(file.read_text().replace("Sentence 0", "It’s R&amp;D &lt;0&gt;"), encoding="utf-8")
    prepare(corpus, tmp_path / "out", keep_case=True)
    assert read(tmp_path / "out", "iwslt14-test")[0][1] == "It's R&D <0> of TED.dev2010."


def test_command_prints_a_table_or_json(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prepare", "iwslt14", "--from", str(corpus), "--out", str(tmp_path / "out")]
    for options in ([], ["--json"]):
        assert exit_code(*command, *options) == 0
        text = capsys.readouterr().out
        if options:
            assert json.loads(text)["pairs"]["iwslt14-train"] == 62
        else:
            assert text.splitlines()[0].split() == ["iwslt14-train", "62", "pairs"]


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe-dense.yaml"])
def test_recipes_read_what_is_prepared(name: str, corpus: Path, tmp_path: Path) -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "models" / "iwslt14-de-en" / name)
    prepared = prepare(corpus, tmp_path / "out").pairs
    assert {recipe.data.valid, *(text.prefix for text in recipe.data.train)} <= set(prepared)
    model = recipe.model
    assert (model.d_model, model.d_ffn, model.heads, model.glu) == (512, 1024, 4, False)
    assert model.encoder_kernels == [3, 7, 15, 31, 31, 31, 31]
    assert model.decoder_kernels == [3, 7, 15, 31, 31, 31]
    assert model.linear.kind == ("dense" if "dense" in name else "kmatrix")


def fails(capsys: pytest.CaptureFixture[str], source: Path, out: Path) -> str:
    """What the command says when it refuses; nothing is written then."""
    assert exit_code("prepare", "iwslt14", "--from", str(source), "--out", str(out)) == 2
    assert not out.exists() or not any(out.iterdir())
    return capsys.readouterr().err


def test_missing_files_are_named(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "nothing at" in fails(capsys, tmp_path / "nowhere", out)
    (corpus / "IWSLT14.TED.tst2011.de-en.en.xml").unlink()
    assert "has no file IWSLT14.TED.tst2011.de-en.en.xml" in fails(capsys, corpus, out)
    (corpus / "train.tags.de-en.de").unlink()
    assert "has no file train.tags.de-en.de" in fails(capsys, corpus, out)


def test_damaged_archive_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = tmp_path / "de-en.tgz"
    packed.write_bytes(b"no archive at all")
    assert "neither a folder nor a readable archive" in fails(capsys, packed, tmp_path / "out")
    corpus = write_corpus(tmp_path / "whole", sentences(60))
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(corpus, "de-en")
    packed.write_bytes(packed.read_bytes()[:-400])
    assert str(packed) in fails(capsys, packed, tmp_path / "out")


def test_sides_of_unequal_length_are_refused(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = corpus / "train.tags.de-en.en"
    file.write_text("\n".join(file.read_text(encoding="utf-8").splitlines()[:-1]) + "\n", encoding="utf-8")
    message = fails(capsys, corpus, tmp_path / "out")
    assert "67 German and 66 English lines of text; from line 67 of the text on" in message


def test_bytes_that_are_not_utf8_are_located(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = corpus / "train.tags.de-en.de"
    lines = file.read_bytes().split(b"\n")
    lines[7] = b"caf\xe9"
    file.write_bytes(b"\n".join(lines))
    assert "train.tags.de-en.de, line 8: not valid UTF-8" in fails(capsys, corpus, tmp_path / "out")


def test_too_few_pairs_and_xml_without_segments(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="only 14 training pairs are left"):
        prepare(write_corpus(tmp_path / "few", sentences(10)), tmp_path / "out")
    corpus = write_corpus(tmp_path / "none", sentences(60))
    (corpus / "IWSLT14.TED.dev2010.de-en.de.xml").write_text("<mteval></mteval>\n")
    with pytest.raises(CorpusError, match="has no <seg id="):
        prepare(corpus, tmp_path / "out")


def test_earlier_files_are_replaced_and_a_full_place_is_told(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare(corpus, out, keep_case=True)
    assert prepare(corpus, out).sha256 != first.sha256
    assert sorted(file.name for file in out.iterdir()) == sorted(first.sha256)  # no drafts are left
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="cannot write to"):
        prepare(corpus, tmp_path / "file")
