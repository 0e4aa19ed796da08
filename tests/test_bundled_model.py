"""The model that ships: its facts and a few plain sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_line import exit_code
from server_process import serving

from kserve import Translator

MODEL = Path(__file__).resolve().parents[1] / "models" / "de-en"


@pytest.fixture(scope="module")
def translator() -> Translator:
    return Translator(threads=1)


def test_it_is_the_default(translator: Translator) -> None:
    assert translator.bundle.path == MODEL
    assert translator.languages == ("de", "en")


def test_every_linear_layer_is_a_kmatrix(translator: Translator) -> None:
    assert {kind.kind for kind in translator.bundle.shape.linear.values()} == {"kmatrix"}
    counts = translator.bundle.describe()["parameters"]
    assert counts["linear"] < counts["linear_dense"] / 2


def test_it_is_small_and_documented(translator: Translator) -> None:
    assert translator.bundle.describe()["bytes"]["total"] < 15e6
    assert translator.bundle.config["provenance"]
    assert translator.bundle.config["quality"]
    assert "CC" in (MODEL / "README.md").read_text(encoding="utf-8")


def test_info_tells_its_scores_and_its_twins(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("info") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if " tatoeba-valid: " in line)
    scores = r"BLEU \d+\.\d, chrF .*, \d+ sentences/s on 2 threads"
    assert re.fullmatch(rf"quality +tatoeba-valid: {scores}; its dense twin {scores}", line)


@pytest.mark.parametrize(
    ("german", "words"),
    [
        ("Ich habe einen Hund.", ["have", "dog"]),
        ("Wo ist der Bahnhof?", ["where", "station"]),
        ("Sie trinkt gern Tee.", ["tea"]),
        ("Das Buch liegt auf dem Tisch.", ["book", "table"]),
    ],
)
def test_plain_sentences(translator: Translator, german: str, words: list[str]) -> None:
    for beam in (1, 5):
        english = translator.translate(german, beam_size=beam).text.lower()
        assert all(word in english for word in words), english


def test_it_serves_within_its_memory() -> None:
    with serving() as server, server.client() as client:
        for number in range(200):
            body = {"q": f"Zimmer {number} ist heute leider schon belegt.", "source": "auto", "target": "en"}
            assert client.post("/translate", json=body).status_code == 200
        assert server.resident_bytes() < 150e6
