"""Files from bytes to bytes: what is in them survives, what is dangerous is refused."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any
from xml.dom import minidom

import docx
import pytest
from odf.opendocument import OpenDocumentText
from odf.text import A, H, LineBreak, Note, NoteBody, NoteCitation, P, S, Span, Tab
from test_text_markup import run

from kserve import Translator
from kserve.errors import UnsafeFile, UnsupportedFile
from kserve.text.detect import detect
from kserve.text.files import ArchiveLimits, file_kind, read_file
from kserve.text.files.subtitles import _cuts
from kserve.text.place import Word

HUND = "Ein Hund rennt über die Wiese."


def translated(translator: Translator, name: str, data: bytes) -> bytes:
    file = read_file(name, data)
    return file.written([one.texts[0] for one in run(translator, *file.documents)])


def word_file() -> bytes:
    document = docx.Document()
    document.add_heading("Der Bahnhof", 1)
    paragraph = document.add_paragraph("Ein ")
    paragraph.add_run("großer Hund").bold = True
    paragraph.add_run(" rennt über die ")
    paragraph.add_run("Wiese").italic = True
    paragraph.add_run(".\tUnd die Frau?\nJa.")
    document.add_paragraph("12:30")
    document.add_table(1, 2).cell(0, 0).text = "Die Frau liest"
    document.sections[0].header.paragraphs[0].text = "Morgen fahren wir"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def text_file() -> bytes:
    document = OpenDocumentText()
    document.text.addElement(H(outlinelevel=1, text="Der Bahnhof"))
    paragraph = P(text="Ein ")
    paragraph.addElement(Span(text="großer Hund"))
    paragraph.addElement(S(c=2))
    paragraph.addText("rennt über die Wiese")
    note = Note(noteclass="footnote")
    note.addElement(NoteCitation(text="1"))
    body = NoteBody()
    body.addElement(P(text="Die Frau liest."))
    note.addElement(body)
    paragraph.addElement(note)
    paragraph.addElement(LineBreak())
    paragraph.addElement(A(href="http://a.b", text="Zwei Kinder"))
    paragraph.addElement(Tab())
    document.text.addElement(paragraph)
    out = io.BytesIO()
    document.write(out)
    return out.getvalue()


def entry(data: bytes, name: str) -> str:
    return zipfile.ZipFile(io.BytesIO(data)).read(name).decode()


def changed(data: bytes, **entries: str | bytes) -> bytes:
    """The archive with entries added or replaced; `__` in a name stands for a slash, `_dot_` for a point."""
    out = io.BytesIO()
    new = {name.replace("__", "/").replace("_dot_", "."): content for name, content in entries.items()}
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as archive:
        for info in old.infolist():
            if info.filename not in new:
                archive.writestr(info, old.read(info))
        for name, content in new.items():
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def test_docx_keeps_forms_tables_headers_and_all_else(translator: Translator) -> None:
    before = word_file()
    after = translated(translator, "a.docx", before)
    old, new = docx.Document(io.BytesIO(before)), docx.Document(io.BytesIO(after))
    assert len(old.paragraphs) == len(new.paragraphs)
    forms = [(run.bold, run.italic) for run in new.paragraphs[1].runs]
    assert forms.count((True, None)) == 1
    assert forms.count((None, True)) == 1
    assert new.paragraphs[1].text.count("\t") == 1
    assert new.paragraphs[1].text.count("\n") == 1
    assert new.paragraphs[0].style is not None
    assert new.paragraphs[0].style.name == "Heading 1"
    assert new.paragraphs[2].text == "12:30"
    assert new.tables[0].cell(0, 0).text != "Die Frau liest"
    assert new.sections[0].header.paragraphs[0].text != "Morgen fahren wir"
    for name in zipfile.ZipFile(io.BytesIO(before)).namelist():
        if not re.search(r"document|header", name):
            assert entry(before, name) == entry(after, name) if name.endswith((".xml", ".rels")) else True


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def paragraphs(*inner: str) -> bytes:
    """A DOCX with these paragraphs."""
    body = "".join(f"<w:p>{one}</w:p>" for one in inner)
    return changed(
        word_file(), word__document_dot_xml=f"<w:document {W}><w:body>{body}</w:body></w:document>"
    )


def test_docx_fields_drawings_and_text_boxes(translator: Translator) -> None:
    field = (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText> PAGE </w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>7</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )
    box = (
        f"<w:r><w:pict><w:txbxContent><w:p><w:r><w:t>{HUND}</w:t></w:r></w:p></w:txbxContent></w:pict></w:r>"
    )
    deleted = "<w:del><w:r><w:delText>Zwei Kinder</w:delText></w:r></w:del>"
    data = paragraphs(
        f"<w:r><w:t xml:space='preserve'>Auf Seite </w:t></w:r>{field}<w:r><w:t> die Frau.</w:t></w:r>",
        f"<w:r><w:t>Die Frau liest</w:t></w:r>{box}{deleted}<w:r><w:t> ein Buch.</w:t></w:r>",
        "<w:r><w:t>Hu</w:t></w:r><w:proofErr/><w:r><w:t>nd</w:t></w:r>",
    )
    found = entry(translated(translator, "a.docx", data), "word/document.xml")
    minidom.parseString(found)
    assert found.count(field) == 1  # a field stays whole and in order
    assert HUND not in found
    assert found.count("<w:txbxContent>") == 1
    assert found.count(deleted) == 1
    assert "Hu" not in re.findall(r"<w:t[^>]*>([^<]*)", found)


def test_odt_keeps_spans_links_and_notes(translator: Translator) -> None:
    after = translated(translator, "a.odt", text_file())
    found = entry(after, "content.xml")
    minidom.parseString(found)
    before = entry(text_file(), "content.xml")
    for tag in (
        "text:h",
        "text:p",
        "text:span",
        "text:a",
        "text:s",
        "text:tab",
        "text:line-break",
        "text:note ",
    ):
        assert found.count(f"<{tag}") == before.count(f"<{tag}"), tag
    for text in ("Der Bahnhof", "großer Hund", "Die Frau liest.", "Zwei Kinder"):
        assert text not in found


def test_a_file_without_words_comes_back(translator: Translator) -> None:
    data = paragraphs("<w:r><w:t>12</w:t></w:r>")
    assert entry(translated(translator, "a.docx", data), "word/document.xml") == entry(
        data, "word/document.xml"
    )


def with_name(first: bytes) -> bytes:
    """A file whose list of entries begins a name with a byte that UTF-8 does not have."""
    data = changed(word_file(), é=b"")
    at = data.rindex(b"PK\x01\x02") + 46
    return data[:at] + first + data[at + len(first) :]


def with_method(method: int) -> bytes:
    """A file with an entry that unpacks to far more than is read, compressed by one of Python's ways."""
    out = io.BytesIO(word_file())
    with zipfile.ZipFile(out, "a", method) as archive:
        archive.writestr("word/x.xml", b"a" * 60_000_000)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.docx", b"", "damaged"),
        ("a.docx", b"PK\x03\x04" + b"\0" * 100, "damaged"),
        ("a.docx", word_file()[:-200], "damaged"),
        ("a.docx", text_file(), "no word/document.xml"),
        ("a.odt", word_file(), "no content.xml"),
        ("a.docx", changed(word_file(), word__vbaProject_dot_bin=b"x"), "macros"),
        ("a.odt", changed(text_file(), Basic__x_dot_xml="x"), "macros"),
        ("a.docx", changed(word_file(), word__document_dot_xml=b"\xff\xfe<"), "not UTF-8"),
        (
            "a.docx",
            changed(word_file(), word__document_dot_xml="<!DOCTYPE a [<!ENTITY b 'c'>]><a/>"),
            "document type",
        ),
        ("a.docx", changed(word_file(), word__x_dot_xml=b"a" * 60_000_000), "more than 50000000 bytes"),
        ("a.docx", changed(word_file(), **{f"x{number}": b"" for number in range(5001)}), "at most 5000"),
        ("a.docx", with_method(zipfile.ZIP_LZMA), "compressed in a way"),
        ("a.docx", with_method(zipfile.ZIP_BZIP2), "compressed in a way"),
        ("a.docx", with_name(b"\xff"), "damaged"),
        ("a.docx", word_file()[:-6] + b"\xff\xff\xff\x7f\0\0", "damaged"),
    ],
    ids=[
        "empty",
        "junk",
        "cut",
        "odt",
        "docx",
        "macros",
        "basic",
        "utf8",
        "entities",
        "bomb",
        "many",
        "lzma",
        "bzip2",
        "name",
        "list-before-the-beginning",
    ],
)
def test_dangerous_and_broken_office_files(name: str, data: bytes, message: str) -> None:
    with pytest.raises(UnsafeFile, match=message):
        read_file(name, data)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = changed(word_file(), word__x_dot_xml=b"a" * 40_000_000)
    assert len(bomb) < 200_000
    with pytest.raises(UnsafeFile, match="more than 1000000 bytes"):
        read_file("a.docx", bomb, limits=ArchiveLimits(1_000_000))


@pytest.mark.parametrize("name", ["a.exe", "a", "a.docm", ".docx/..", "a.docx\0.exe", ""])
def test_kinds_of_files_that_are_not_read(name: str) -> None:
    with pytest.raises(UnsupportedFile, match="must end in"):
        file_kind(name)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_text_keeps_its_encoding(translator: Translator, encoding: str) -> None:
    data = f"{HUND}\r\n\r\n12 Grüße".encode(encoding)
    found = translated(translator, "a.txt", data).decode(encoding)
    assert found.count("\r\n") == 2
    assert found.split("\r\n")[0] == translator.translate(HUND, beam_size=1).text


SRT = """\ufeff1
00:00:01,000 --> 00:00:03,000
Ein Hund rennt
über die Wiese,

2
00:00:03,500 --> 00:00:05,000 X1:10
und die Frau liest ein Buch.

3
00:00:06,000 --> 00:00:07,000
<i>Wo ist der Bahnhof?</i>

4
00:00:08,000 --> 00:00:09,000
- Wo bist du?
- Morgen {\\an8}Tee.

5
00:00:10,000 --> 00:00:11,000

6
00:00:12,000 --> 00:00:13,000
12
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_subtitles_keep_their_times(translator: Translator, end: str) -> None:
    source = SRT.replace("\n", end)
    found = translated(translator, "a.srt", source.encode()).decode()
    times = re.compile(r"^.*-->.*$|^\d+\r?$", re.MULTILINE)
    assert times.findall(found) == times.findall(source)
    cues = re.split(r"\r?\n\r?\n", found.strip())
    assert all(len(cue.split("\n")) > 2 for cue in (cues[0], cues[1], cues[2]))
    assert cues[2].count("<i>") == cues[2].count("</i>") == 1
    assert cues[3].count("{\\an8}") == 1
    assert re.findall(r"(?m)^- ", cues[3]) == ["- ", "- "]


def test_a_sentence_is_shared_out_among_its_cues() -> None:
    def words(*sources: int) -> list[Word]:
        found: list[Word] = []
        for source in sources:
            found += [Word("a", (source,) if source >= 0 else ()), Word(" ")]
        return found

    starts = [0, 10, 20]
    assert _cuts(words(1, 2, 11, 12, 21), starts) == [0, 4, 8, 10]
    assert _cuts(words(1, 11, 2, 12, 21), starts)[-1] == 10
    assert _cuts(words(1, 1, 1), starts) == [0, 2, 4, 6]  # none is empty
    assert _cuts(words(1), starts) == [0, 2, 2, 2]
    assert _cuts(words(-1, -1, -1, -1), starts)[0] == 0


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (HUND, "de"),
        ("The woman reads a book by the window.", "en"),
        ("Siehe https://example.org/the/house/and/the/dog und dann weiter", "de"),
        ("{{the_name_of_the_dog}} ist nicht hier", "de"),
    ],
)
def test_languages_are_told_apart(text: str, language: str) -> None:
    best, other = detect(text, ["en", "de"])
    assert (best.language, best.confidence > 0.5, other.confidence < 0.3) == (language, True, True)


@pytest.mark.parametrize("text", ["", "12", "😀", "https://example.org/hund"])
def test_nothing_to_tell_a_language_by(text: str) -> None:
    assert [guess.confidence for guess in detect(text, ["de", "en"])] == [0, 0]


def test_a_language_that_is_not_loaded_is_not_taken_for_another() -> None:
    assert detect("Bonjour tout le monde, comment allez-vous ?", ["de", "en"])[0].confidence < 0.05


def test_any(translator: Translator) -> None:
    """Every kind of file survives being empty."""
    empty: Any = b""
    for name in ("a.txt", "a.srt", "a.html", "a.md"):
        assert translated(translator, name, empty) == b""
