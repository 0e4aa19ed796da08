"""The real client libraries of the APIs that we are compatible with, against a real server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import deepl
import docx
import pytest
import tiny_bundle
from deep_translator import DeeplTranslator, LibreTranslator
from libretranslatepy import LibreTranslateAPI
from server_process import Server, serving

from kserve import Translator
from kserve.api.service import LOOP_GUARD

HUND = "Ein Hund rennt über die Wiese."
BUCH = "Die Frau liest ein Buch am Fenster."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(tiny_bundle.bundle_folder(), tiny_bundle.back_folder(), threads="2") as running:
        yield running


@pytest.fixture(scope="module")
def wanted() -> str:
    return Translator(tiny_bundle.bundle_folder(), threads=1).translate(HUND, loop_guard=LOOP_GUARD).text


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def test_libretranslatepy(server: Server, wanted: str) -> None:
    client = LibreTranslateAPI(server.url + "/")
    assert client.translate(HUND, "de", "en") == wanted
    assert client.detect(HUND)[0]["language"] == "de"
    assert [one["code"] for one in client.languages()] == ["de", "en"]


def test_deep_translator_speaks_libretranslate(server: Server, wanted: str) -> None:
    client = LibreTranslator(source="de", target="en", api_key="any", custom_url=server.url + "/")
    assert client.translate(HUND) == wanted


def test_deep_translator_speaks_deepl(server: Server, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = DeeplTranslator(api_key="any", source="de", target="en", use_free_api=True)
    monkeypatch.setattr(client, "_DeeplTranslator__base_url", server.url + "/v2/", raising=False)
    monkeypatch.setattr(client, "_base_url", server.url + "/v2/")
    assert client.translate(HUND) == wanted


def test_deepl_texts(server: Server, wanted: str) -> None:
    client = deepl.Translator("any-key", server_url=server.url)
    found = client.translate_text([HUND, BUCH], target_lang="EN-US")
    assert isinstance(found, list)
    assert [one.detected_source_lang for one in found] == ["DE", "DE"]
    assert found[0].text == wanted
    single = client.translate_text(HUND, source_lang="DE", target_lang="EN-GB", formality="prefer_less")
    assert isinstance(single, deepl.TextResult)
    assert single.text == wanted
    page = client.translate_text("<p>Ein <b>Hund</b>.</p>", target_lang="EN-GB", tag_handling="html")
    assert isinstance(page, deepl.TextResult)
    assert page.text.startswith("<p>")
    assert [one.code for one in client.get_target_languages()] == ["DE", "EN-GB", "EN-US"]
    assert [one.code for one in client.get_source_languages()] == ["DE", "EN"]
    assert client.get_usage().character.count == 0


def test_deepl_errors_are_its_own(server: Server) -> None:
    client = deepl.Translator("any-key", server_url=server.url)
    with pytest.raises(deepl.DeepLException, match="target_lang"):
        client.translate_text(HUND, target_lang="XX")


def test_deepl_documents(server: Server, tmp_path: Path) -> None:
    document = docx.Document()
    document.add_paragraph(HUND)
    document.save(str(tmp_path / "in.docx"))
    client = deepl.Translator("any-key", server_url=server.url)
    client.translate_document_from_filepath(tmp_path / "in.docx", tmp_path / "out.docx", target_lang="EN-GB")
    translated = docx.Document(io.BytesIO((tmp_path / "out.docx").read_bytes()))
    assert translated.paragraphs[0].text not in ("", HUND)
