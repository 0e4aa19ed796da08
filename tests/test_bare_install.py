"""The wheel in an environment of its own: no torch, the command, the bundled model, memory under use."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tiny_bundle

from kserve.errors import BundleMissing
from kserve.translator import bundled_model

ROOT = Path(__file__).resolve().parents[1]
MEMORY_LIMIT = 150e6  # bytes resident after a thousand requests

pytestmark = pytest.mark.proof  # it builds the engine anew and installs from the package index


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of an environment with nothing but `pip install .` in it."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", ROOT], check=True)
    return folder / "bin"


@pytest.fixture(scope="module")
def model() -> list[str]:
    """Options that choose the model: none if one is bundled, else the small one of the tests."""
    try:
        bundled_model()
    except BundleMissing:
        return ["--bundle", str(tiny_bundle.bundle_folder())]
    return []


def run(*arguments: str | Path, data: str = "") -> str:
    done = subprocess.run(arguments, input=data, capture_output=True, text=True, cwd="/", timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_is_not_there(bare: Path) -> None:
    listed = run(bare / "pip", "list", "--format", "freeze").lower()
    assert "kmatrix-serve==" in listed
    assert not re.search(r"^(torch|safetensors|sacrebleu)==", listed, re.MULTILINE)


def test_the_command_translates(bare: Path, model: list[str]) -> None:
    out = run(bare / "kserve", "translate", *model, data="Ein Hund rennt.\n\nWo ist der Bahnhof?\n")
    assert out.count("\n") == 3
    assert out.split("\n")[0].strip()
    assert out.split("\n")[1] == ""


def test_it_is_not_the_checkout(bare: Path) -> None:
    place = run(bare / "python", "-c", "import kserve; print(kserve.__file__)").strip()
    assert place.startswith(str(bare.parent))


@pytest.fixture
def started(bare: Path, model: list[str]) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    """A server that is ready, and a client of it."""
    command = [str(bare / "kserve"), "serve", "--port", "0", *model]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        assert process.stderr
        url = json.loads(process.stderr.readline())["url"]
        with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
            while not _is_ready(client):
                time.sleep(0.005)
            yield process, client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.stderr
        process.stderr.close()


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_memory_stays_small(started: tuple[subprocess.Popen[str], httpx.Client]) -> None:
    process, client = started
    for number in range(1000):
        body = {"q": f"Ein Hund rennt über die Wiese, sagt Nummer {number}.", "source": "de", "target": "en"}
        assert client.post("/translate", json=body).status_code == 200
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = 1024 * int(status.split("VmRSS:")[1].split()[0])
    assert resident < MEMORY_LIMIT
