"""The pages' files as they leave the server: nothing inline, nothing from elsewhere, right under a prefix."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving

from kserve.api.web import FOLDER

PAGES = ("/", "/compare")
MOST_BYTES = 60_000  # of both pages and all their files, as they are sent


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(tiny_bundle.bundle_folder(), tiny_bundle.back_folder()) as running:
        yield running


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_and_loads_only_what_is_the_servers_own(client: httpx.Client, path: str) -> None:
    page = client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.split(maxsplit=1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", page.text)
    assert not re.search(r"{\w+}", page.text), "a place that was to be filled"
    named = re.findall(r"(?:src|href)=\"([^\"#]+)\"", page.text)
    assert named
    for one in named:
        assert not re.match(r"\w+:|//", one), f"{one} is not the server's own"
        assert client.get(f"/{one.removeprefix('/')}").status_code == 200
    assert client.head(path).headers["content-length"] == page.headers["content-length"]


def test_the_files_name_nothing_from_elsewhere_and_are_small() -> None:
    files = [file for file in FOLDER.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file in files:
        elsewhere = re.findall(r"https?://[^\s\"'<>)]+", file.read_text(encoding="utf-8"))
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, file.name
        for module in re.findall(r"from \"(.+?)\"", file.read_text(encoding="utf-8")):
            assert (FOLDER / module).is_file()


def test_a_file_that_has_not_changed_is_not_sent_again(client: httpx.Client) -> None:
    first = client.get("/web/style.css")
    assert first.headers["content-type"].startswith("text/css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/web/style.css", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    ["/web/", "/web/..%2f..%2fconfig.py", "/web/%2e%2e/app.py", "/web/nothing.js", "/web/index.html%00"],
)
def test_no_other_file_can_be_read(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_pages_under_a_prefix_point_below_it() -> None:
    with serving(tiny_bundle.bundle_folder(), prefix="/mt") as server, server.client() as client:
        for path in ("/mt/", "/mt/compare", ""):  # the client's own base has the prefix already
            page = client.get(f"{httpx.URL(server.url).copy_with(path='')}{path}" if path else "/")
            assert page.status_code == 200
            assert '<base href="/mt/">' in page.text


def test_what_is_switched_off_is_not_there() -> None:
    with (
        serving(tiny_bundle.bundle_folder(), compare="false", docs="false") as server,
        server.client() as client,
    ):
        assert 'data-offers=""' in client.get("/").text
        refused = client.post("/v1/compare", json={"text": "Ein Hund", "source": "de", "target": "en"})
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    with serving(tiny_bundle.bundle_folder(), web="false") as server, server.client() as client:
        assert [client.get(path).status_code for path in (*PAGES, "/web/style.css")] == [404, 404, 404]
