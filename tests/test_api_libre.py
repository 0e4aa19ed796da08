"""The LibreTranslate-compatible API: a real process, a real socket, small real models."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving

from kserve import Translator, __version__
from kserve.api.body import json_object
from kserve.api.service import LOOP_GUARD
from kserve.errors import InvalidBody

HUND = "Ein Hund rennt über die Wiese."
BUCH = "Die Frau liest ein Buch am Fenster."
TIMING = r"queue;dur=[\d.]+, tokenize;dur=[\d.]+, decode;dur=[\d.]+"
LIMITS = {
    "max_characters": "500",
    "max_request_characters": "900",
    "max_texts": "3",
    "max_body_bytes": "20000",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    bundles = tiny_bundle.bundle_folder(), tiny_bundle.back_folder()
    with serving(*bundles, threads="2", max_alternatives="4", **LIMITS) as running:
        yield running


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/translate", json={"source": "de", "target": "en", **fields})


def test_a_string_gives_a_string(client: httpx.Client, translator: Translator) -> None:
    answer = ask(client, q=HUND)
    assert answer.status_code == 200
    assert answer.json() == {"translatedText": translator.translate(HUND, loop_guard=LOOP_GUARD).text}
    assert answer.headers["content-type"] == "application/json"
    assert re.fullmatch(TIMING, answer.headers["server-timing"])


def test_an_array_gives_an_array_equal_to_single_answers(client: httpx.Client) -> None:
    singles = [ask(client, q=text).json()["translatedText"] for text in (HUND, "", BUCH)]
    assert ask(client, q=[HUND, "", BUCH]).json() == {"translatedText": singles}


def test_unknown_fields_are_ignored(client: httpx.Client) -> None:
    assert ask(client, q=HUND, colour={"red": [1]}).json() == ask(client, q=HUND).json()


@pytest.mark.parametrize("form", ["urlencoded", "multipart", "query"])
def test_other_forms_of_the_same_request(client: httpx.Client, form: str) -> None:
    fields = {"q": HUND + "\n" + BUCH, "source": "de", "target": "en", "format": "text", "api_key": "x"}
    wanted = ask(client, q=fields["q"]).json()
    sent: dict[str, dict[str, Any]] = {
        "urlencoded": {"data": fields},
        "multipart": {"files": {name: (None, value) for name, value in fields.items()}},
        "query": {"params": fields},
    }
    answer = client.post("/translate", **sent[form])
    assert (answer.status_code, answer.json()) == (200, wanted)


def test_auto_says_which_language_was_found_and_how_sure_it_is(client: httpx.Client) -> None:
    found = ask(client, q=HUND, source="auto").json()["detectedLanguage"]
    assert found["language"] == "de"
    assert 90 < found["confidence"] <= 100
    assert "detectedLanguage" not in ask(client, q=HUND).json()
    unsure = ask(client, q="Bonjour tout le monde, je suis content", source="auto").json()
    assert unsure["detectedLanguage"]["confidence"] < 5
    assert ask(client, q="😀 12", source="auto").json()["detectedLanguage"]["confidence"] == 0


def test_every_text_of_an_array_has_its_own_language(client: httpx.Client) -> None:
    english = "The woman reads a book by the window."
    answer = ask(client, q=[HUND, english], source="AUTO").json()
    assert [one["language"] for one in answer["detectedLanguage"]] == ["de", "en"]
    assert answer["translatedText"] == [ask(client, q=HUND).json()["translatedText"], english]


def test_a_language_into_itself_changes_nothing(client: httpx.Client) -> None:
    assert ask(client, q=HUND, source="de", target="de").json() == {"translatedText": HUND}


def test_the_pair_chooses_the_model(client: httpx.Client) -> None:
    back = Translator(tiny_bundle.back_folder(), threads=1)
    answer = ask(client, q="A dog runs across the meadow.", source="en", target="de")
    wanted = back.translate("A dog runs across the meadow.", loop_guard=LOOP_GUARD).text
    assert answer.json() == {"translatedText": wanted}


def test_html_keeps_its_tags(client: httpx.Client) -> None:
    page = "<p class='x'>Ein <b>Hund</b> rennt.</p><script>Hund</script><!-- Hund -->"
    answer = ask(client, q=page, format="html").json()["translatedText"]
    assert re.findall(r"<[^>]*>", answer) == re.findall(r"<[^>]*>", page)
    assert answer.endswith("</p><script>Hund</script><!-- Hund -->")
    assert ask(client, q=page, format="html", alternatives=2).json()["alternatives"] == []


def test_alternatives_are_others(client: httpx.Client) -> None:
    answer = ask(client, q=HUND, alternatives=3).json()
    assert 1 <= len(answer["alternatives"]) <= 3
    assert answer["translatedText"] not in answer["alternatives"]
    assert len(set(answer["alternatives"])) == len(answer["alternatives"])
    many = ask(client, q=[HUND, "😀"], alternatives=2).json()
    assert [len(others) > 0 for others in many["alternatives"]] == [True, False]
    assert "alternatives" not in ask(client, q=HUND, alternatives=-1).json()


@pytest.mark.parametrize("text", ["", " ", "  \n ", "😀👍🏽", "\0", "12:30", "\r\n", "Привет"])
def test_nothing_to_translate_comes_back(client: httpx.Client, text: str) -> None:
    assert ask(client, q=text).json() == {"translatedText": text}
    assert ask(client, q=["", text]).json() == {"translatedText": ["", text]}


def test_line_ends_and_space_are_kept(client: httpx.Client) -> None:
    hund, buch = (ask(client, q=text).json()["translatedText"] for text in (HUND, BUCH))
    answer = ask(client, q=f"  {HUND}\r\n\r\n{BUCH}\0\n").json()
    assert answer["translatedText"] == f"  {hund}\r\n\r\n{buch}\0\n"


def test_lone_surrogates_become_the_replacement_character(client: httpx.Client) -> None:
    body = b'{"q": "\\ud800", "source": "de", "target": "en"}'
    answer = client.post("/translate", content=body, headers={"content-type": "application/json"})
    assert answer.json() == {"translatedText": "\ufffd"}


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({}, "missing_parameter", "Invalid request: missing q parameter"),
        ({"q": None}, "missing_parameter", "Invalid request: missing q parameter"),
        ({"q": []}, "missing_parameter", "Invalid request: missing q parameter"),
        ({"q": "a", "source": None}, "missing_parameter", "Invalid request: missing source parameter"),
        ({"q": "a", "target": None}, "missing_parameter", "Invalid request: missing target parameter"),
        ({"q": 7}, "invalid_parameter", "Invalid request: q is int"),
        ({"q": {"a": 1}}, "invalid_parameter", "Invalid request: q is dict"),
        ({"q": ["a", None]}, "invalid_parameter", r"Invalid request: q\[1\] is NoneType"),
        ({"q": "a", "source": 3}, "invalid_parameter", "Invalid request: source is int"),
        ({"q": "a", "source": "zz"}, "unsupported_language", "zz is not supported"),
        ({"q": "a", "target": "\ud800"}, "unsupported_language", "\ufffd is not supported"),
        ({"q": "a", "target": "auto"}, "unsupported_language", "auto is not supported"),
        ({"q": "a", "format": "md"}, "invalid_parameter", "md format is not supported"),
        ({"q": "a", "alternatives": 10**40}, "invalid_parameter", "alternatives parameter must be <= 4"),
        ({"q": "a", "alternatives": "two"}, "invalid_parameter", "alternatives parameter is not a number"),
        ({"q": "a", "alternatives": True}, "invalid_parameter", "alternatives parameter is not a number"),
        ({"q": "a", "alternatives": 1.5}, "invalid_parameter", "alternatives parameter is not a number"),
        ({"q": "a", "alternatives": 5}, "invalid_parameter", "alternatives parameter must be <= 4"),
        ({"q": ["a"] * 4}, "too_many_texts", r"request \(4\) exceeds text limit \(3\)"),
        ({"q": "a" * 501}, "text_too_long", r"request \(501\) exceeds text limit \(500\)"),
        ({"q": ["a" * 400] * 3}, "text_too_long", r"\(1200\) exceed the limit of 900"),
    ],
)
def test_what_is_wrong_is_said(client: httpx.Client, fields: dict[str, Any], code: str, message: str) -> None:
    body = json.dumps({"source": "de", "target": "en", **fields})
    answer = client.post("/translate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["code"] == code
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(answer.json()["error"])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"q": "a",}',
        b"\xff\xfe",
        b'{"q": "\xff"}',
        b"[1]",
        b'"q"',
        b"null",
        b"[" * 9000,
        b'{"q": ' + b'{"a":' * 3000,
        b'{"q": "a", "q": "b", "source": "de", "target": "en"}',
        b'{"q": "a", "source": "de", "target": "en", "alternatives": NaN}',
        b'{"q": "a", "source": "de", "target": "en", "alternatives": ' + b"9" * 9000 + b"}",
    ],
    ids=[
        "empty",
        "open",
        "comma",
        "bytes",
        "latin",
        "array",
        "string",
        "null",
        "deep",
        "deep-object",
        "twice",
        "nan",
        "huge",
    ],
)
def test_a_body_that_is_no_json_object(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/translate", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")
    assert answer.json()["error"].startswith("Invalid JSON format")


def test_a_field_that_comes_twice_is_found_in_linear_time() -> None:
    fields = ",".join(f'"{number}":0' for number in range(100_000))
    started = time.perf_counter()
    with pytest.raises(InvalidBody, match="'99999' is there more than once"):
        json_object(f'{{{fields},"99999":0}}'.encode())
    assert time.perf_counter() - started < 5


def test_invalid_utf8_in_a_form_is_replaced(client: httpx.Client) -> None:
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = client.post("/translate", content=b"q=%ff%F0&source=de&target=en", headers=headers)
    assert (answer.status_code, answer.json()) == (200, {"translatedText": "\ufffd\ufffd"})


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=x", "text/plain"]
)
def test_a_form_without_fields_misses_q(client: httpx.Client, content_type: str) -> None:
    answer = client.post("/translate", content=b"hello", headers={"content-type": content_type})
    assert answer.status_code == 400
    assert answer.json()["code"] in ("invalid_body", "missing_parameter")


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused_unread(client: httpx.Client, chunked: bool) -> None:
    body = json.dumps({"q": "a" * 30_000, "source": "de", "target": "en"}).encode()
    content = iter([body[:10_000], body[10_000:]]) if chunked else body
    answer = client.post("/translate", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")
    assert "20000 bytes" in answer.json()["error"]


def test_languages_even_with_a_form_on_the_get(client: httpx.Client) -> None:
    wanted = [
        {"code": "de", "name": "German", "targets": ["en", "de"]},
        {"code": "en", "name": "English", "targets": ["de", "en"]},
    ]
    assert client.get("/languages").json() == wanted
    assert client.request("GET", "/languages", data={"api_key": "x"}).json() == wanted


def test_health_names_model_and_kernels(client: httpx.Client, translator: Translator) -> None:
    assert client.get("/health").json() == {
        "status": "ok",
        "version": __version__,
        "models": ["tiny-de-en", "tiny-en-de"],
        "isa": translator.isa,
        "threads": 2,
    }
    assert client.get("/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/translate", 405),
        ("DELETE", "/languages", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/..%2f", 404),
    ],
)
def test_other_paths_and_methods_answer_json(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "code"}
