"""What is deployed with the image: files that name each other, and settings that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from server_process import ROOT

from kserve.config import ServerSettings


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_compose_mounts_files_that_there_are() -> None:
    services = read("compose.yaml")["services"]
    volumes = [one for service in services.values() for one in service.get("volumes", ())]
    ours = [one.split(":") for one in volumes if one.startswith("./")]
    assert len(ours) >= 3
    for source, _, mode in ours:
        assert (ROOT / source).exists(), source
        assert mode == "ro"
    assert services["kserve"]["read_only"] is True
    for service in services.values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), "nothing is opened to other machines unasked"


def test_prometheus_asks_the_server_and_grafana_asks_prometheus() -> None:
    services = read("compose.yaml")["services"]
    [job] = read("deploy/prometheus.yaml")["scrape_configs"]
    assert job["static_configs"][0]["targets"] == ["kserve:8000"]
    assert "kserve" in services
    [source] = read("deploy/grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = read("deploy/grafana/provisioning/dashboards/kserve.yaml")["providers"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == provider["options"]["path"]
    assert any(one.split(":")[1] == home for one in services["grafana"]["volumes"])


def test_every_setting_that_is_named_is_one() -> None:
    for path in ("Dockerfile", "compose.yaml", "README.md"):
        named = re.findall(r"KSERVE_([A-Z_]+[A-Z])\b", (ROOT / path).read_text(encoding="utf-8"))
        assert named, path
        unknown = {name.lower() for name in named} - set(ServerSettings.model_fields)
        assert unknown == set(), path


def test_the_image_gets_no_more_than_it_needs() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines.index("*") < min(lines.index("!" + one) for one in kept)
    for one in kept:
        assert (ROOT / one).exists(), one
    assert not {"tests", "loadtest", "docs", ".git"} & set(kept)
