"""This server's own API: scores, n-best, sentences, alignment, decoding options, streams, files, models."""

from __future__ import annotations

import json
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
    with serving(tiny_bundle.bundle_folder(), threads="2", max_characters="500") as running:
        yield running


def ask(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/translate", json={"source": "de", "target": "en", **fields})


def one(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = ask(client, **fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["translations"][0]
    return found


def events(client: httpx.Client, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    answer = client.post("/v1/translate/stream", json={"source": "de", "target": "en", **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        name, data = block.split("\n", 1)
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_the_answer_is_the_librarys(client: httpx.Client, translator: Translator) -> None:
    wanted = translator.translate(f"{HUND} {BUCH}", n_best=3, loop_guard=LOOP_GUARD)
    answer = ask(client, text=f"{HUND} {BUCH}", n_best=3).json()
    (found,) = answer["translations"]
    assert [one["text"] for one in found["hypotheses"]] == [one.text for one in wanted.hypotheses]
    for got, hypothesis in zip(found["hypotheses"], wanted.hypotheses, strict=True):
        assert got["score"] == pytest.approx(hypothesis.score, abs=1e-4)
        assert got["truncated"] == hypothesis.truncated
    assert (found["source"], found["target"], found["model"]) == ("de", "en", "tiny-de-en")
    assert answer["usage"]["sentences"] == 2
    assert answer["usage"]["characters"] == len(HUND) + len(BUCH) + 1
    assert answer["timing"]["total_ms"] >= answer["timing"]["decode_ms"] > 0


def test_sentences_say_where_they_are(client: httpx.Client) -> None:
    text = f"  {HUND}\n\n{BUCH}  😀"
    found = one(client, text=text, alignment=True)
    assert [sentence["source"] for sentence in found["sentences"]] == [HUND, BUCH]
    for sentence in found["sentences"]:
        start, target = sentence["source_start"], sentence["target_start"]
        best = sentence["hypotheses"][0]
        assert text[start:].startswith(sentence["source"])
        assert found["text"][target:].startswith(best["text"])
        assert len(best["token_log_probabilities"]) == best["tokens"]
        assert sum(best["token_log_probabilities"]) == pytest.approx(best["log_probability"], abs=1e-2)
        assert len(best["pieces"]) == len(best["piece_alignment"])
        assert all(0 <= place < len(best["source_pieces"]) for place in best["piece_alignment"])
        for pair in sentence["alignment"]:
            low, high = pair["target"]
            assert best["text"][low:high].strip()
            assert all(sentence["source"][a:b].strip() for a, b in pair["source"])


def test_options_of_decoding_reach_the_engine(client: httpx.Client, translator: Translator) -> None:
    options: dict[str, Any] = {"prefix": "The dog", "min_length": 9, "no_repeat_ngram": 1, "beam_size": 3}
    wanted = translator.translate(HUND, **options, loop_guard=LOOP_GUARD).text
    assert one(client, text=HUND, decoding=options)["text"] == wanted
    samples = [
        one(client, text=HUND, decoding={"temperature": 2.0, "seed": seed})["text"] for seed in (1, 1, 2)
    ]
    assert samples[0] == samples[1] != samples[2]


def test_placeholders_survive_unless_they_need_not(client: httpx.Client) -> None:
    text = "Ein Hund {{name}} rennt %s über https://example.org/a?b=1 Wiese 4711."
    assert all(
        part in one(client, text=text)["text"] for part in ("{{name}}", "%s", "https://example.org/a?b=1")
    )
    assert "4711" in one(client, text=text)["text"]


def test_a_text_that_is_not_split_is_one_sentence(client: httpx.Client) -> None:
    both = f"{HUND} {BUCH}"
    assert len(one(client, text=both, split_sentences=False)["sentences"]) == 1
    assert len(one(client, text=both)["sentences"]) == 2


def test_xml_and_html(client: httpx.Client) -> None:
    assert one(client, text="<a>Ein <b>Hund</b></a>", format="xml")["text"].count("<b>") == 1
    assert one(client, text="<p>Ein Hund</p>", format="html")["text"].startswith("<p>")


def test_a_stream_tells_tokens_then_sentences_then_all(client: httpx.Client, translator: Translator) -> None:
    found = events(client, text=[HUND, f"{BUCH} {HUND}"])
    names = [name for name, _ in found]
    assert names[-1] == "done"
    assert names.count("sentence") == 3
    sentences = {(data["text"], data["sentence"]): data for name, data in found if name == "sentence"}
    for place, sentence in sentences.items():
        told = [
            data["piece"]
            for name, data in found
            if name == "token" and (data["text"], data["sentence"]) == place
        ]
        assert "".join(told).strip() == sentence["translation"]
        wanted = translator.translate(sentence["source"], beam_size=1, loop_guard=LOOP_GUARD)
        assert sentence["translation"] == wanted.text
    assert found[-1][1]["translations"][0]["text"] == sentences[0, 0]["translation"]


def test_a_stream_of_a_beam_tells_sentences_only(client: httpx.Client) -> None:
    names = [name for name, _ in events(client, text=f"{HUND} {BUCH}", decoding={"beam_size": 3})]
    assert names == ["sentence", "sentence", "done"]


def test_masked_tokens_are_never_streamed(client: httpx.Client) -> None:
    found = events(client, text="Ein Hund {{name}} rennt.")
    assert "token" not in [name for name, _ in found]
    assert "{{name}}" in next(data for name, data in found if name == "sentence")["translation"]


def test_languages_are_detected_text_by_text(client: httpx.Client) -> None:
    texts = [HUND, "The woman reads a book by the window.", "42"]
    found = client.post("/v1/detect", json={"text": texts}).json()["detections"]
    assert [one[0]["language"] for one in found[:2]] == ["de", "en"]
    assert [guess["confidence"] for guess in found[2]] == [0, 0]
    translations = client.post("/v1/translate", json={"text": texts, "target": "en"}).json()["translations"]
    assert translations[0]["detected"]["language"] == "de"
    assert (translations[1]["model"], translations[1]["text"]) == (None, texts[1])


def test_a_file_comes_back_translated(client: httpx.Client, translator: Translator) -> None:
    files = {"file": ("Größe \r\n.txt", f"{HUND}\n\n{BUCH}\n".encode())}
    answer = client.post("/v1/files", files=files, data={"target": "en", "source": "de"})
    assert answer.status_code == 200
    lines = [translator.translate(text, loop_guard=LOOP_GUARD).text for text in (HUND, BUCH)]
    assert answer.content.decode() == f"{lines[0]}\n\n{lines[1]}\n"
    assert answer.headers["content-disposition"].isascii()
    assert ".en.txt" in answer.headers["content-disposition"]


def test_models_are_told(client: httpx.Client, translator: Translator) -> None:
    (model,) = client.get("/v1/models").json()["models"]
    assert (model["name"], model["source"], model["target"]) == ("tiny-de-en", "de", "en")
    assert model["isa"] == translator.isa
    assert model["sha256"] == translator.bundle.config["files"]["model.safetensors"]["sha256"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text"),
        ({"text": 7}, "text"),
        ({"text": ["a", None]}, "text.1"),
        ({"text": "a", "target": 3}, "target"),
        ({"text": "a", "target": "zz"}, "zz is not supported"),
        ({"text": "a", "target": "de", "source": "en"}, "not available"),
        ({"text": "a", "n_best": 0}, "n_best"),
        ({"text": "a", "n_best": 12}, "limit of 11"),
        ({"text": "a", "n_best": "3"}, "n_best"),
        ({"text": "a", "format": "md"}, "format"),
        ({"text": "a", "deadline": -1}, "deadline"),
        ({"text": "a", "deadline": 1e400}, "deadline"),
        ({"text": "a", "decoding": {"beam_size": 65}}, "decoding.beam_size"),
        ({"text": "a", "decoding": {"beam_size": 10**30}}, "decoding.beam_size"),
        ({"text": "a", "decoding": {"loop_guard": 1}}, "loop_guard"),
        ({"text": "a", "decoding": {"beam_size": 2, "top_k": 3}}, "beam_size"),
        ({"text": "a", "decoding": []}, "decoding"),
        ({"text": "a" * 501}, "exceeds text limit (500)"),
    ],
)
def test_what_is_wrong_is_named(client: httpx.Client, fields: dict[str, Any], message: str) -> None:
    body = json.dumps({"target": "en", **fields}).replace("Infinity", "1e400")
    answer = client.post("/v1/translate", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]
    assert set(answer.json()) == {"error", "code"}


def test_unknown_fields_are_ignored(client: httpx.Client) -> None:
    assert one(client, text=HUND, colour="red", decoding={"colour": "red"})["text"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_only_json_is_read(client: httpx.Client, kind: str) -> None:
    answer = client.post("/v1/translate", content=b"{}", headers={"content-type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_body")


def test_a_deadline_that_cannot_be_kept_is_a_refusal(client: httpx.Client) -> None:
    long = (HUND + " ") * 14
    answer = ask(client, text=[long] * 100, deadline=0.001, decoding={"beam_size": 8})
    assert (answer.status_code, answer.json()["code"]) == (503, "deadline_exceeded")
    assert int(answer.headers["retry-after"]) >= 1
