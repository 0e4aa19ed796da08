"""The container image: built, measured, and run with a read-only file system, no network and no rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import debian
import pytest
from server_process import ROOT

from kserve import Translator
from kserve.api.service import LOOP_GUARD
from kserve.translator import bundled_models

pytestmark = pytest.mark.proof

NAME = "localhost/kserve-proof"
BASE = "localhost/kserve-base"
MOST_BYTES, MOST_OWN_BYTES = 300e6, 150e6  # with the base, and without it
_BUILD_SECONDS = 900
_PARTS = ("*/torch", "*/pip", "*/numpy/tests", "*/bin/gcc*", "*/bin/cc", "*/schemathesis", "*.pyi", "*/cpp")
_ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs", **os.environ}


def run(*command: str) -> str:
    """A command's output."""
    done = subprocess.run(
        command, env=_ENVIRONMENT, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> None:
    """The image, built."""
    if os.geteuid() != 0:
        pytest.skip("building an image on a base of one's own needs root")
    debian.command(["buildah"], ["buildah"])
    debian.command(["debootstrap"], ["debootstrap"])
    run(str(ROOT / "deploy" / "image.sh"), NAME)


@pytest.fixture(scope="module")
def mounted(image: None) -> Iterator[dict[str, Path]]:
    """Where the files of the image and of its base are."""
    containers = {name: run("buildah", "from", "--pull-never", name) for name in (NAME, BASE)}
    try:
        yield {name: Path(run("buildah", "mount", container)) for name, container in containers.items()}
    finally:
        for container in containers.values():
            run("buildah", "rm", container)


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, float]]:
    """What was measured; for people, in build/image.json."""
    found: dict[str, float] = {}
    yield found
    out = ROOT / "build" / "image.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def size(folder: Path) -> int:
    """Bytes of all files, as they lie on the disk."""
    return 1024 * int(
        run("du", "--one-file-system", "--summarize", "--block-size=1K", str(folder)).split()[0]
    )


def test_it_keeps_to_its_size(mounted: dict[str, Path], figures: dict[str, float]) -> None:
    whole, base = size(mounted[NAME]), size(mounted[BASE])
    figures.update(image_mb=whole / 1e6, base_mb=base / 1e6)
    assert whole <= MOST_BYTES, f"{whole / 1e6:.0f} MB"
    assert whole - base <= MOST_OWN_BYTES, f"{(whole - base) / 1e6:.0f} MB without the base"


def test_nothing_that_only_a_build_needs(mounted: dict[str, Path]) -> None:
    for part in _PARTS:
        assert run("find", str(mounted[NAME]), "-xdev", "-path", part) == "", part
    assert (
        run("find", str(mounted[NAME] / "opt"), "-name", "*.py", "-newer", "/proc/self/exe", "-perm", "/022")
        == ""
    )


def test_it_serves_without_network_rights_or_a_place_to_write(
    mounted: dict[str, Path], tmp_path: Path, figures: dict[str, float]
) -> None:
    told = json.loads(run("buildah", "inspect", "--type", "image", NAME))["Docker"]["config"]
    assert told["User"] not in ("", "0", "root")
    config = {name: told[name] for name in ("User", "Env", "Entrypoint", "Cmd")}
    config["Healthcheck"] = told["Healthcheck"]["Test"][1:]
    models = [Translator(path) for path in bundled_models()]
    pairs = [one.languages for one in models]
    requests = [{"q": "Anna 7.", "source": source, "target": target} for source, target in pairs]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "requests.json").write_text(json.dumps(requests), encoding="utf-8")
    command = [
        "unshare",
        "--mount",
        "--net",
        "--pid",
        "--fork",
        sys.executable,
        str(ROOT / "tests/image_run.py"),
    ]
    found = json.loads(
        run(*command, str(tmp_path / "config.json"), str(mounted[NAME]), str(tmp_path / "requests.json"))
    )
    figures["ready_seconds"] = found["ready_seconds"]
    assert found["answers"] == [one.translate("Anna 7.", loop_guard=LOOP_GUARD).text for one in models]
    assert (found["health"], found["exit_code"]) == (0, 0), found["log"]
    assert "Traceback" not in found["log"]
