"""The HTTP API: a real process, a real socket, a small real model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving

from kserve import Translator, __version__
from kserve.api.app import create_app
from kserve.config import Settings

HUND = "Ein Hund rennt über die Wiese."
BUCH = "Die Frau liest ein Buch am Fenster."
LIMITS = {
    "max_characters": "500",
    "max_request_characters": "900",
    "max_texts": "3",
    "max_body_bytes": "20000",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(tiny_bundle.bundle_folder(), threads="2", max_alternatives="4", **LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(tiny_bundle.bundle_folder(), threads=1)


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/translate", json={"source": "de", "target": "en", **fields})


def test_a_string_gives_a_string(client: httpx.Client, translator: Translator) -> None:
    answer = ask(client, q=HUND)
    assert answer.status_code == 200
    assert answer.json() == {"translatedText": translator.translate(HUND).text}
    assert answer.headers["content-type"] == "application/json"
    assert "translate;dur=" in answer.headers["server-timing"]


def test_an_array_gives_an_array_equal_to_single_answers(client: httpx.Client) -> None:
    singles = [ask(client, q=text).json()["translatedText"] for text in (HUND, "", BUCH)]
    assert ask(client, q=[HUND, "", BUCH]).json() == {"translatedText": singles}


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


def test_auto_says_which_language_was_taken_and_how_sure(client: httpx.Client) -> None:
    taken = {"confidence": 0.0, "language": "de"}
    assert ask(client, q=HUND, source="auto").json()["detectedLanguage"] == taken
    assert ask(client, q=[HUND, BUCH], source="AUTO").json()["detectedLanguage"] == [taken, taken]
    assert "detectedLanguage" not in ask(client, q=HUND).json()


def test_alternatives_are_others(client: httpx.Client) -> None:
    answer = ask(client, q=HUND, alternatives=3).json()
    assert 1 <= len(answer["alternatives"]) <= 3
    assert answer["translatedText"] not in answer["alternatives"]
    assert len(set(answer["alternatives"])) == len(answer["alternatives"])
    many = ask(client, q=[HUND, "😀"], alternatives="2").json()
    assert [len(others) > 0 for others in many["alternatives"]] == [True, False]
    assert "alternatives" not in ask(client, q=HUND, alternatives=-1).json()


@pytest.mark.parametrize("text", ["", " ", "  \n ", "😀👍🏽", "\0", "12:30", "\r\n", "Привет"])
def test_nothing_to_translate_comes_back(client: httpx.Client, text: str) -> None:
    assert ask(client, q=text).json() == {"translatedText": text}


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
        ({"q": "a", "format": "html"}, "invalid_parameter", "html format is not supported"),
        (
            {"q": "a", "source": "en", "target": "de"},
            "unsupported_language",
            r"German \(de\) is not available as a target language from English \(en\)",
        ),
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
    [b"", b"{", b'{"q": "a",}', b"\xff\xfe", b'{"q": "\xff"}', b"[1]", b'"q"', b"null", b"[" * 9000],
    ids=["empty", "open", "comma", "bytes", "latin", "array", "string", "null", "deep"],
)
def test_a_body_that_is_no_json_object(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/translate", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")
    assert answer.json()["error"].startswith("Invalid JSON format")


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
        {"code": "de", "name": "German", "targets": ["en"]},
        {"code": "en", "name": "English", "targets": []},
    ]
    assert client.get("/languages").json() == wanted
    assert client.request("GET", "/languages", data={"api_key": "x"}).json() == wanted


def test_health_names_model_and_kernels(client: httpx.Client, translator: Translator) -> None:
    assert client.get("/health").json() == {
        "status": "ok",
        "version": __version__,
        "model": "tiny-de-en",
        "isa": translator.isa,
        "threads": 2,
    }
    assert client.get("/ready").json() == {"status": "ready"}


def test_the_description_is_there(client: httpx.Client) -> None:
    assert client.get("/docs").status_code == 200
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/translate", "/languages", "/health", "/ready"}
    assert "q" in json.dumps(described["paths"]["/translate"]["post"]["requestBody"])


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


def test_not_ready_before_the_model_is_warm(translator: Translator) -> None:
    app = create_app(Settings.read(), translator)

    async def answers() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)  # no lifespan: nothing warms the model
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"q": HUND, "source": "de", "target": "en"}
            return [await client.get("/ready"), await client.post("/translate", json=body)]

    for answer in asyncio.run(answers()):
        assert answer.status_code == 503
        assert answer.json()["code"] == "not_ready"
        assert answer.headers["retry-after"] == "1"


def test_the_event_loop_is_free_while_the_engine_works_and_a_full_queue_says_so() -> None:
    """One long request runs, one waits, the third is refused at once; other paths answer meanwhile."""
    limits = {"max_characters": "400000", "max_request_characters": "400000"}
    with serving(tiny_bundle.bundle_folder(), threads="1", queue_size="1", **limits) as server:
        answers: list[httpx.Response] = []

        def work() -> None:
            with server.client() as client:
                answers.append(ask(client, q=(HUND + " ") * 4_000, alternatives=5))

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        with server.client() as client:
            while not answers:
                time.sleep(0.01)
            started = time.perf_counter()
            assert client.get("/health").status_code == 200
            assert time.perf_counter() - started < 1
            assert len(answers) == 1, "the long requests ended too early for this test"
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [429, 200, 200]
        assert answers[0].json()["code"] == "overloaded"
        assert answers[0].headers["retry-after"] == "1"


def test_memory_stays_small_over_a_thousand_requests(server: Server, client: httpx.Client) -> None:
    for number in range(1000):
        assert ask(client, q=f"{HUND} {number}").status_code == 200
    assert server.resident_bytes() < 150e6
