"""The DeepL-compatible API: shapes, options, errors, documents."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving

from kserve import Translator
from kserve.api.service import LOOP_GUARD

HUND = "Ein Hund rennt über die Wiese."
BUCH = "Die Frau liest ein Buch am Fenster."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    bundles = tiny_bundle.bundle_folder(), tiny_bundle.back_folder()
    with serving(*bundles, threads="2", max_texts="5") as running:
        yield running


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v2/translate", json={"target_lang": "EN-US", **fields})


def test_texts_in_order_with_language_and_characters(client: httpx.Client, translator: Translator) -> None:
    answer = ask(client, text=[HUND, BUCH])
    assert answer.status_code == 200
    assert answer.json() == {
        "translations": [
            {
                "detected_source_language": "DE",
                "text": translator.translate(text, loop_guard=LOOP_GUARD).text,
                "billed_characters": len(text),
            }
            for text in (HUND, BUCH)
        ]
    }


def test_unknown_fields_are_ignored(client: httpx.Client) -> None:
    assert ask(client, text=[HUND], colour={"red": [1]}).json() == ask(client, text=[HUND]).json()


@pytest.mark.parametrize("form", ["get", "query", "form"])
def test_older_callers(client: httpx.Client, form: str) -> None:
    fields = {"text": [HUND, BUCH], "source_lang": "DE", "target_lang": "EN", "auth_key": "x"}
    wanted = ask(client, text=[HUND, BUCH], source_lang="DE").json()
    sent = {
        "get": lambda: client.get("/v2/translate", params=fields),
        "query": lambda: client.post("/v2/translate", params=fields),
        "form": lambda: client.post("/v2/translate", data=fields),
    }[form]()
    assert (sent.status_code, sent.json()) == (200, wanted)


def test_options_that_cannot_be_followed_are_named(client: httpx.Client) -> None:
    answer = ask(
        client, text=[HUND], formality="less", glossary_id="x", context="y", show_billed_characters=True
    )
    assert answer.status_code == 200
    assert answer.headers["x-ignored-options"] == "context, formality, glossary_id"


def test_tags_and_splitting(client: httpx.Client) -> None:
    html = ask(client, text=["<p>Ein <b>Hund</b></p><br>"], tag_handling="html").json()["translations"][0][
        "text"
    ]
    assert html.startswith("<p>")
    assert html.endswith("</p><br>")
    xml = ask(client, text=["<d>Ein <k>Hund rennt</k> heute</d>"], tag_handling="xml", ignore_tags=["k"])
    assert "<k>Hund rennt</k>" in xml.json()["translations"][0]["text"]
    assert ask(client, text=[f"{HUND} {BUCH}"], split_sentences="0").status_code == 200
    broken = {"text": ["Ein Hund\nrennt über die Wiese."], "source_lang": "DE"}
    assert "\n" in ask(client, **broken).json()["translations"][0]["text"]
    joined = ask(client, **broken, split_sentences="nonewlines").json()["translations"][0]["text"]
    assert joined == ask(client, text=[HUND], source_lang="DE").json()["translations"][0]["text"]


def test_languages_by_query_or_by_body(client: httpx.Client) -> None:
    sources = [{"language": "DE", "name": "German"}, {"language": "EN", "name": "English"}]
    assert client.get("/v2/languages").json() == sources
    targets = client.get("/v2/languages?type=target").json()
    assert [one["language"] for one in targets] == ["DE", "EN-GB", "EN-US"]
    assert client.request("GET", "/v2/languages", data={"type": "target"}).json() == targets


def test_usage(client: httpx.Client) -> None:
    assert set(client.get("/v2/usage").json()) == {"character_count", "character_limit"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text"),
        ({"text": []}, "text"),
        ({"text": [1]}, "array of strings"),
        ({"text": "a", "target_lang": None}, "target_lang"),
        ({"text": "a", "target_lang": "XX"}, "target_lang"),
        ({"text": "a", "source_lang": 7}, "source_lang"),
        ({"text": "a", "tag_handling": "md"}, "tag_handling"),
        ({"text": "a", "split_sentences": "7"}, "split_sentences"),
        ({"text": "a", "tag_handling": "xml", "ignore_tags": [1]}, "ignore_tags"),
        ({"text": ["a"] * 6}, "exceeds text limit"),
    ],
)
def test_errors_have_a_message(client: httpx.Client, fields: dict[str, Any], message: str) -> None:
    answer = ask(client, **fields)
    assert answer.status_code == 400
    assert message in answer.json()["message"]
    assert set(answer.json()) == {"message", "detail"}


def test_a_document_from_start_to_result(client: httpx.Client, translator: Translator) -> None:
    files = {"file": ("brief.txt", HUND.encode())}
    started = client.post("/v2/document", files=files, data={"target_lang": "EN-GB"}).json()
    path, key = f"/v2/document/{started['document_id']}", {"document_key": started["document_key"]}
    while (status := client.post(path, json=key).json())["status"] == "translating":
        time.sleep(0.01)
    assert (status["status"], status["billed_characters"]) == ("done", len(HUND))
    assert client.post(path, json={"document_key": "wrong"}).status_code == 404
    answer = client.post(f"{path}/result", json=key)
    assert answer.text == translator.translate(HUND, loop_guard=LOOP_GUARD).text
    assert client.post(f"{path}/result", json=key).status_code == 404  # only once


def test_a_broken_document_says_so(client: httpx.Client) -> None:
    files = {"file": ("brief.docx", b"no archive")}
    started = client.post("/v2/document", files=files, data={"target_lang": "EN-GB"}).json()
    path, key = f"/v2/document/{started['document_id']}", {"document_key": started["document_key"]}
    while (status := client.post(path, json=key).json())["status"] == "translating":
        time.sleep(0.01)
    assert status["status"] == "error"
    assert "damaged" in status["error_message"]
    assert client.post(f"{path}/result", json=key).status_code == 400
