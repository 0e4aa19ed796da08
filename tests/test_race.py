"""A model against its dense twin: /v1/compare."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving
from test_server import gauge, until

from kserve import Translator
from kserve.api.race import MAX_CHARACTERS, RUNS, race
from kserve.api.service import LOOP_GUARD
from kserve.errors import InvalidParameter
from kserve.twin import dense_twin, linear_bytes

HUND = "Ein Hund rennt über die Wiese."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(tiny_bundle.bundle_folder(), tiny_bundle.back_folder()) as running:
        yield running


def test_both_translate_and_are_timed(client: httpx.Client, server: Server) -> None:
    answer = client.post("/v1/compare", json={"text": HUND, "source": "de", "target": "en"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    own = Translator(tiny_bundle.bundle_folder(), threads=1)
    twin = Translator(dense_twin(own.bundle, "int8"), threads=1)
    for name, one in (("kmatrix", own), ("dense", twin)):
        told = found[name]
        assert told["text"] == one.translate(HUND, loop_guard=LOOP_GUARD).text
        assert 0 < told["min_ms"] <= told["median_ms"] <= told["max_ms"]
        assert told["tokens"] > 0
        assert told["weight_bytes"] == linear_bytes(one.bundle)
    assert found["kmatrix"]["linear_parameters"] < found["dense"]["linear_parameters"]
    assert found["runs"] == RUNS
    assert gauge(server, "kserve_twin_bytes") == found["dense"]["weight_bytes"]


def test_another_model_takes_the_twins_place(client: httpx.Client, server: Server) -> None:
    for source, target in (("en", "de"), ("de", "en")):
        answer = client.post("/v1/compare", json={"text": "A dog runs.", "source": source, "target": target})
        assert answer.status_code == 200
    assert len(server.logged("made a dense twin")) >= 2
    one = linear_bytes(dense_twin(Translator(tiny_bundle.bundle_folder(), threads=1).bundle, "int8"))
    assert gauge(server, "kserve_twin_bytes") == one, "a single twin is kept"


def test_one_race_at_a_time(client: httpx.Client) -> None:
    body = {"text": HUND * 10, "source": "de", "target": "en"}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: client.post("/v1/compare", json=body), range(16)))
    assert {answer.status_code for answer in answers} <= {200, 429}
    assert any(answer.status_code == 200 for answer in answers)
    for answer in answers:
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
    assert until(lambda: client.post("/v1/compare", json=body).status_code == 200)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"text": "x" * (MAX_CHARACTERS + 1), "source": "de", "target": "en"}, "text_too_long"),
        ({"text": " \n", "source": "de", "target": "en"}, "invalid_parameter"),
        ({"text": HUND, "source": "de", "target": "de"}, "invalid_parameter"),
        ({"text": HUND, "source": "de", "target": "xx"}, "unsupported_language"),
        ({"source": "de", "target": "en"}, "invalid_parameter"),
        ({"text": [HUND], "source": "de", "target": "en"}, "invalid_parameter"),
    ],
    ids=["long", "blank", "same", "unknown", "nothing", "array"],
)
def test_what_cannot_be_compared(client: httpx.Client, body: dict[str, object], code: str) -> None:
    answer = client.post("/v1/compare", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, code)


def test_nothing_to_translate() -> None:
    own = Translator(tiny_bundle.bundle_folder(), threads=1)
    with pytest.raises(InvalidParameter, match="nothing to translate"):
        race(own, own, "🙂")
