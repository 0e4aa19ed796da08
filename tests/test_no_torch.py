"""The run-time side works where torch is not installed (and does not touch it where it is)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle

ROOT = Path(__file__).resolve().parents[1]

# Importing any of these fails as if it were not installed.
BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "safetensors", "sacrebleu", "yaml", "tqdm", "matplotlib"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", BLOCK + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "code",
    [
        "import kserve, kserve.cli, kserve.api.app, kserve.api.server, kserve.evaluate, kserve.train",
        "from kserve import Translator; print(Translator(sys.argv[1]).translate('Ein Hund.').text)",
    ],
    ids=["import", "translate"],
)
def test_without_torch(code: str) -> None:
    done = run(code, str(tiny_bundle.bundle_folder()))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["translate", "info"])
def test_commands_without_torch(command: str) -> None:
    bundle = str(tiny_bundle.bundle_folder())
    arguments = {"translate": ["translate", "-m", bundle, "Ein Hund."], "info": ["info", bundle]}[command]
    done = run("from kserve.cli import main; main(sys.argv[1:])", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "recipe.yaml", "--out", "run"], "train"),
        (["export", "final.pt", "out"], "train"),
    ],
    ids=["train", "export"],
)
def test_training_commands_name_the_extra(arguments: list[str], extra: str) -> None:
    done = run("from kserve.cli import main; main(sys.argv[1:])", *arguments)
    assert done.returncode == 1
    assert f"[{extra}]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_scoring_names_its_extra(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("Ein Hund.\n")
    arguments = ["eval", "-m", str(tiny_bundle.bundle_folder()), "--src", str(tmp_path / "a")]
    done = run("from kserve.cli import main; main(sys.argv[1:])", *arguments, "--ref", str(tmp_path / "a"))
    assert done.returncode == 1
    assert "sacrebleu" in done.stderr
    assert "[bench]" in done.stderr


def test_torch_is_not_loaded_where_it_is_installed() -> None:
    code = "import sys; from kserve import Translator; Translator(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_bundle.bundle_folder())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "False", done.stderr
