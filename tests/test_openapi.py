"""schemathesis makes requests from the OpenAPI document, good and bad: no 5xx, no answer outside of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_bundle
from server_process import serving

pytestmark = pytest.mark.proof  # some minutes

_LIMITS = {
    "max_characters": "300",
    "max_request_characters": "600",
    "max_body_bytes": "20000",
    "rate": "1000000",
}


def test_no_answer_is_outside_of_the_description(tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(
        # A document that is still being translated, and a stopping server, are answered 503 on purpose.
        '[checks.not_a_server_error]\nexpected-statuses = ["2xx", "3xx", "4xx", 503]\n'
    )
    bundles = tiny_bundle.bundle_folder(), tiny_bundle.back_folder()
    with serving(*bundles, threads="1", header_seconds="60", **_LIMITS) as server:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "run",
                f"{server.url}/openapi.json",
                "--checks",
                "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
                "--max-examples",
                "100",
                "--seed",
                "1",
                "--phases",
                "examples,coverage,fuzzing",
                "--suppress-health-check",
                "all",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        with server.client() as client:
            assert client.get("/ready").status_code == 200
    assert not [line for line in server.lines if "traceback" in line]
