"""What protects a server: keys, rates, limits, headers, logs without texts, counters without names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_bundle
from server_process import ROOT, Server, serving

from kserve.api.access import Access, add_key, key_hash
from kserve.api.cache import Cache
from kserve.api.rates import Rates
from kserve.api.stored import FileStore, safe_name
from kserve.errors import InvalidKey, KeyNeeded, NotFound, Overloaded, RateLimited, SettingsError

HUND = "Ein Hund rennt über die Wiese."
BODY = {"q": HUND, "source": "de", "target": "en"}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A file of keys, and the keys themselves."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    made = {name: add_key(path, name) for name in ("plain", "slow", "short", "spent", "root")}
    limits = {"slow": " rate=2", "short": " max_characters=40", "spent": " quota=70", "root": " admin"}
    lines = [line + limits.get(line.split()[0], "") for line in path.read_text().splitlines()]
    path.write_text("# who may ask\n" + "\n".join(lines) + "\n")
    return path, made


@pytest.fixture(scope="module")
def guarded(keys: tuple[Path, dict[str, str]]) -> Iterator[Server]:
    """A server that asks for keys."""
    with serving(tiny_bundle.bundle_folder(), keys=str(keys[0]), cache_sentences="100") as running:
        yield running


@pytest.fixture(scope="module")
def client(guarded: Server) -> Iterator[httpx.Client]:
    with guarded.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def secret(keys: tuple[Path, dict[str, str]]) -> dict[str, str]:
    return keys[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_in_any_of_its_places(client: httpx.Client, secret: dict[str, str]) -> None:
    key = secret["plain"]
    answers = [
        client.post("/translate", json={**BODY, "api_key": key}),
        client.post("/translate", data={**BODY, "api_key": key}),
        client.post("/translate", json=BODY, headers=bearer(key)),
        client.post("/translate", json=BODY, headers={"X-API-Key": key}),
        client.post("/v1/translate", json={"text": HUND, "target": "en"}, headers=bearer(key)),
        client.post(
            "/v2/translate",
            json={"text": [HUND], "target_lang": "EN"},
            headers={"Authorization": f"DeepL-Auth-Key {key}"},
        ),
        client.get("/v2/translate", params={"text": HUND, "target_lang": "EN", "auth_key": key}),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)


def test_no_key_and_a_wrong_key(client: httpx.Client) -> None:
    missing = client.post("/translate", json=BODY)
    assert (missing.status_code, missing.json()["code"]) == (400, "key_needed")
    assert missing.json()["error"] == "Please contact the server operator to get an API key"
    wrong = client.post("/translate", json={**BODY, "api_key": "x"})
    assert (wrong.status_code, wrong.json()["error"]) == (403, "Invalid API key")
    own = client.post("/v1/translate", json={"text": "a", "target": "en"})
    assert (own.status_code, own.headers["www-authenticate"]) == (401, "Bearer")
    other = client.post("/v2/translate", json={"text": ["a"], "target_lang": "EN"})
    assert (other.status_code, set(other.json())) == (403, {"message", "detail"})


@pytest.mark.parametrize("place", ["body", "query"])
def test_a_key_in_the_wrong_place_is_told(client: httpx.Client, secret: dict[str, str], place: str) -> None:
    field = {"api_key": secret["plain"]}
    sent: dict[str, Any] = {"json": {"text": "a", "target": "en"}}
    if place == "body":
        sent["json"].update(field)
    else:
        sent["params"] = field
    answer = client.post("/v1/translate", **sent)
    assert answer.status_code == 401
    assert "wrong place" in answer.json()["error"]


def test_limits_of_a_key(client: httpx.Client, secret: dict[str, str]) -> None:
    statuses = [client.post("/translate", json={**BODY, "api_key": secret["slow"]}) for _ in range(3)]
    assert [answer.status_code for answer in statuses] == [200, 200, 429]
    assert statuses[2].json() == {"error": "Slowdown: 2 per 1 minute", "code": "rate_limited"}
    assert 1 <= int(statuses[2].headers["retry-after"]) <= 60
    assert statuses[2].headers["x-ratelimit-limit"] == "2"
    assert statuses[2].headers["x-ratelimit-remaining"] == "0"
    long = client.post("/translate", json={**BODY, "q": "Hund " * 9, "api_key": secret["short"]})
    assert "exceeds text limit (40)" in long.json()["error"]
    auth = {"Authorization": f"DeepL-Auth-Key {secret['spent']}"}
    spent = [client.post("/translate", json=BODY, headers=auth).status_code for _ in range(3)]
    assert spent == [200, 200, 456]
    usage = client.get("/v2/usage", headers=auth).json()
    assert usage == {"character_count": 2 * len(HUND), "character_limit": 70}


def test_only_an_admin_reloads(client: httpx.Client, secret: dict[str, str]) -> None:
    assert client.post("/v1/admin/reload", headers=bearer(secret["plain"])).status_code == 403
    assert client.post("/v1/admin/reload").status_code == 401
    answer = client.post("/v1/admin/reload", headers=bearer(secret["root"]))
    assert (answer.status_code, answer.json()) == (200, {"reloaded": ["tiny-de-en"]})


def test_the_cache_answers_the_same(client: httpx.Client, secret: dict[str, str]) -> None:
    headers = bearer(secret["plain"])
    body = {"text": "Zwei Kinder spielen im Garten mit einem Ball.", "source": "de", "target": "en"}
    first, second = (client.post("/v1/translate", json=body, headers=headers).json() for _ in range(2))
    assert first["translations"] == second["translations"]
    assert (first["usage"]["cached_sentences"], second["usage"]["cached_sentences"]) == (0, 1)
    other = client.post("/v1/translate", json={**body, "decoding": {"beam_size": 1}}, headers=headers).json()
    assert other["usage"]["cached_sentences"] == 0


def test_logs_and_counters_hold_no_text_no_key_and_no_address(
    guarded: Server, client: httpx.Client, secret: dict[str, str]
) -> None:
    client.post("/translate?q=Geheimnis", json={**BODY, "q": "Geheimnis", "api_key": secret["plain"]})
    client.get("/download_file/Geheimnis.txt")
    client.post("/translate", json={**BODY, "source": "Geheimnis", "api_key": secret["plain"]})
    done = client.get("/health", headers={"X-Request-ID": "mine-7"})
    assert done.headers["x-request-id"] == "mine-7"
    guarded.wait_for("request", 10)
    logged = "".join(guarded.lines)
    counters = client.get("/metrics").text
    for told in (logged, counters):
        assert "Geheimnis" not in told
        assert "127.0.0.1" not in told.replace(guarded.url, "")
        assert not any(key in told for key in secret.values())
    assert {"id", "method", "path", "status", "ms"} <= set(guarded.logged("request")[-1])
    assert not any(f'"{name}"' in counters for name in secret)


# What a process does that sends its spans somewhere.
_PROVIDER = """
import sys
from opentelemetry import trace
class Provider(trace.TracerProvider):
    def get_tracer(self, *arguments, **options):
        sys.stderr.write("a span is wanted\\n")
        return trace.NoOpTracer()
trace.set_tracer_provider(Provider())
"""


def test_the_framework_tells_nobody_what_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry", reason="this FastAPI has no telemetry")
    (tmp_path / "sitecustomize.py").write_text(_PROVIDER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(tiny_bundle.bundle_folder()) as server, server.client() as client:
        assert client.post("/translate", json=BODY).status_code == 200
        assert client.get("/docs").status_code == 200
        server.wait_for("request", 2)
    assert "a span is wanted\n" not in server.lines


def test_counters_count(client: httpx.Client, secret: dict[str, str]) -> None:
    def counter(name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = [
        'kserve_requests_total{path="/translate",status="200"}',
        'kserve_phase_seconds_count{phase="decode"}',
        'kserve_engine_sentences_total{pair="de-en"}',
        'kserve_characters_total{pair="de-en"}',
    ]
    before = [counter(name) for name in names]
    rejects = counter('kserve_rejects_total{reason="validation"}')
    text = "Wo ist der Bahnhof heute?"
    client.post("/translate", json={**BODY, "q": text, "api_key": secret["plain"]})
    client.post("/translate", json={**BODY, "q": 7, "api_key": secret["plain"]})
    assert [counter(name) - old for name, old in zip(names, before, strict=True)] == [1, 1, 1, len(text)]
    assert counter('kserve_rejects_total{reason="validation"}') == rejects + 1
    assert counter('kserve_engine_queued_tokens{pair="de-en"}') == 0
    assert counter("process_resident_memory_bytes") > 1e6
    assert re.search(
        r'kserve_model_info\{isa="\w+",model="tiny-de-en",pair="de-en"\} 1', client.get("/metrics").text
    )


def test_the_dashboard_asks_for_counters_that_exist(client: httpx.Client, secret: dict[str, str]) -> None:
    client.post("/translate", json={**BODY, "api_key": secret["plain"]})
    shown = client.get("/metrics").text
    dashboard = json.loads((ROOT / "deploy" / "grafana-dashboard.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = set(re.findall(r"\b(?:kserve|process)_\w+", queries))
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"^{name}[ {{]", shown, re.MULTILINE)] == []


def test_safe_headers_on_every_answer(client: httpx.Client) -> None:
    for path in ("/health", "/nowhere", "/translate", "/docs"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_pages_of_other_origins_may_call(client: httpx.Client) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    allowed = client.options(
        "/translate", headers={**asked, "Access-Control-Request-Headers": "content-type"}
    )
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "*")
    assert client.get("/languages", headers=asked).headers["access-control-allow-origin"] == "*"


def test_the_description_needs_nothing_from_outside(client: httpx.Client) -> None:
    page = client.get("/docs").text
    links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert links
    assert all(link.startswith("/docs/") for link in links)
    assert all(client.get(link).status_code == 200 for link in links)
    described = client.get("/openapi.json").json()
    assert {"/translate", "/v1/translate", "/v2/translate", "/metrics"} <= set(described["paths"])
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references <= set(described["components"]["schemas"])


@pytest.mark.parametrize(
    "path", ["/docs/..%2f..%2fapp.py", "/docs/../app.py", "/download_file/..%2f..%2fetc", "/docs/x"]
)
def test_paths_lead_nowhere_else(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.fixture(scope="module")
def proxied() -> Iterator[Server]:
    """A server behind a proxy with a prefix, with other limits and nothing that is not needed."""
    settings = {
        "prefix": "/lt",
        "trusted_proxies": "127.0.0.0/8",
        "cors_origins": "https://a.example",
        "rate": "3",
        "docs": "false",
        "metrics": "false",
        "max_file_bytes": "5000",
    }
    with serving(tiny_bundle.bundle_folder(), **settings) as running:
        running.url = running.url.removesuffix("/lt")
        yield running


def test_a_prefix_and_a_proxy(proxied: Server) -> None:
    with proxied.client() as client:
        assert client.get("/lt/health").status_code == client.get("/health").status_code == 200
        files = {"file": ("../../a b.txt", HUND.encode())}
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "Host": "mt.example"}
        data = {"source": "de", "target": "en"}
        answer = client.post("/lt/translate_file", files=files, data=data, headers=forwarded).json()
        url = answer["translatedFileUrl"]
        assert re.fullmatch(r"https://mt\.example/lt/download_file/[\w-]+\.a%20b\.en\.txt", url)
        fetched = client.get(url.removeprefix("https://mt.example"))
        assert fetched.status_code == 200
        assert 'filename="a b.en.txt"' in fetched.headers["content-disposition"]


def test_each_address_behind_a_trusted_proxy_has_its_own_rate(proxied: Server) -> None:
    with proxied.client() as client:

        def status(address: str) -> int:
            return client.post("/translate", json=BODY, headers={"X-Forwarded-For": address}).status_code

        assert [status("203.0.113.1") for _ in range(4)] == [200, 200, 200, 429]
        assert status("203.0.113.2") == 200


def test_what_is_switched_off_is_not_there(proxied: Server) -> None:
    with proxied.client() as client:
        assert [client.get(path).status_code for path in ("/docs", "/openapi.json", "/metrics")] == [404] * 3
        other = client.get("/health", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
        assert client.post("/v1/admin/reload").status_code == 403


@pytest.mark.parametrize(
    ("name", "content", "status", "code"),
    [
        ("a.exe", b"x", 400, "unsupported_file"),
        ("a", b"x", 400, "unsupported_file"),
        ("a.docx", b"PK\x03\x04 no archive", 400, "unsafe_file"),
        ("a.txt", b"x" * 20_000, 413, "body_too_large"),
    ],
)
def test_files_that_are_refused(proxied: Server, name: str, content: bytes, status: int, code: str) -> None:
    with proxied.client() as client:
        answer = client.post(
            "/translate_file",
            files={"file": (name, content)},
            data={"source": "de", "target": "en"},
            headers={"X-Forwarded-For": f"198.51.100.{len(name)}"},
        )
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_header_cannot_be_smuggled_in(proxied: Server) -> None:
    with proxied.client() as client:
        answer = client.get("/health", headers={"X-Request-ID": "a b\tc"})
        assert answer.headers["x-request-id"] != "a b\tc"


def test_the_file_of_keys_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key = add_key(path, "one")
    assert path.stat().st_mode & 0o077 == 0
    assert key not in path.read_text()
    access = Access(path, required=True)
    assert access.caller(key, "address").name == "one"
    with pytest.raises(InvalidKey):
        access.caller(key + "x", "address")
    with pytest.raises(KeyNeeded):
        access.caller(None, "address")
    assert Access(path, required=False).caller(None, "address").name == "address"
    with pytest.raises(SettingsError, match="has a key named one"):
        add_key(path, "one")
    for line in (
        "two",
        "two sha256:abc",
        f"two sha256:{key_hash('a')} rate=x",
        f"t/o sha256:{key_hash('a')}",
    ):
        path.write_text(line)
        with pytest.raises(SettingsError, match="line 1"):
            access.read()
    assert access.caller(key, "address").name == "one"  # the old keys go on


def test_a_bucket_fills_again() -> None:
    now = [0.0]
    rates = Rates(60, lambda: now[0])
    assert rates.take("a", 60) == 0
    with pytest.raises(RateLimited) as refused:
        rates.take("a", 5)
    assert refused.value.retry_after == 5
    assert rates.take("b", 1) == 59
    now[0] = 5.0
    assert rates.take("a", 5) == 0
    now[0] = 500.0
    assert rates.take("a", 10_000) == 0  # more than a minute's worth counts as that


def test_stored_files_end() -> None:
    now = [0.0]
    store = FileStore(10, 5, lambda: now[0])
    token = store.put("../x\r\n.txt", b"12345678")
    assert store.get(token).content == b"12345678"
    with pytest.raises(Overloaded):
        store.put("y.txt", b"123")
    now[0] = 6.0
    with pytest.raises(NotFound):
        store.get(token)
    store.put("y.txt", b"0123456789")


@pytest.mark.parametrize(
    "name", ["", "..", "/", "a/../..", "\\..\\", "\0\r\n", "a" * 500, 'x".txt', "ü\u202e.txt"]
)
def test_names_are_safe(name: str) -> None:
    safe = safe_name(name)
    assert 0 < len(safe) <= 100
    assert not re.search(r'[/\\"\r\n\0\u202e]|^\.', safe)


def test_a_cache_forgets_the_oldest() -> None:
    cache: Cache[int] = Cache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
