"""The serving process in bad weather: slow and half-closed senders, clients that leave, signals, reloads."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
import tiny_bundle
from server_process import Server, serving

from kserve import Translator
from kserve.api import memory
from kserve.api.service import LOOP_GUARD
from kserve.bench.machine import resident_bytes

HUND = "Ein Hund rennt über die Wiese."
LONG = (HUND + " ") * 400  # some seconds of work for one thread with a wide beam
WIDE = {"max_characters": "400000", "max_request_characters": "400000", "max_texts": "10000"}


def post(server: Server, path: str = "/v1/translate", **body: Any) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json={"source": "de", "target": "en", **body})


def address(server: Server) -> tuple[str, int]:
    url = httpx.URL(server.url)
    return url.host, url.port or 80


def gauge(server: Server, name: str) -> float:
    with server.client() as client:
        lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def until(condition: Any, seconds: float = 60) -> bool:
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_full_queue_refuses_at_once_and_the_loop_stays_free() -> None:
    """One long request runs and one waits; a third is refused, and other paths answer meanwhile."""
    with serving(tiny_bundle.bundle_folder(), threads="1", max_queued_tokens="100", **WIDE) as server:
        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(post, server, text=LONG, decoding={"beam_size": 16}) for _ in range(1)]
            assert until(lambda: gauge(server, "kserve_engine_queued_tokens") > 100)
            refused = post(server, text=LONG)
            assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            with server.client() as client:
                assert client.get("/health").status_code == 200
            assert not work[0].done(), "the long request ended too early for this test"
            assert work[0].result().status_code == 200
        assert gauge(server, "kserve_engine_queued_tokens") == 0


def test_too_many_requests_at_once_are_refused() -> None:
    limits = {"threads": "1", "max_requests": "1", **WIDE}
    with serving(tiny_bundle.bundle_folder(), **limits) as server, ThreadPoolExecutor(1) as pool:
        work = pool.submit(post, server, text=LONG, decoding={"beam_size": 16})
        assert until(lambda: gauge(server, "kserve_engine_running_sentences") > 0)
        refused = post(server, text=HUND)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert work.result().status_code == 200


def test_a_small_request_does_not_wait_for_a_big_one(translator: Translator) -> None:
    folder = tiny_bundle.bundle_folder()
    with serving(folder, threads="1", **WIDE) as server, ThreadPoolExecutor(1) as pool:
        big = pool.submit(post, server, text=[HUND] * 1000, decoding={"beam_size": 16})
        assert until(lambda: gauge(server, "kserve_engine_queued_sentences") > 50)
        small = post(server, "/translate", q=HUND)
        assert not big.done(), "the big request ended too early for this test"
        assert small.json()["translatedText"] == translator.translate(HUND, loop_guard=LOOP_GUARD).text
        assert len(big.result().json()["translations"]) == 1000


def test_a_client_that_leaves_is_not_worked_for() -> None:
    with serving(tiny_bundle.bundle_folder(), threads="1", **WIDE) as server:
        body = json.dumps({"text": LONG * 5, "target": "en", "source": "de", "decoding": {"beam_size": 32}})
        head = "POST /v1/translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body.encode())}\r\n\r\n"
        for leave in ("close", "half-close"):
            with socket.create_connection(address(server)) as connection:
                connection.sendall(head.encode() + body.encode())
                assert until(lambda: gauge(server, "kserve_engine_queued_sentences") > 10)
                if leave == "half-close":
                    connection.shutdown(socket.SHUT_WR)
                    assert connection.recv(1000) == b""
            assert until(lambda: gauge(server, "kserve_engine_queued_sentences") == 0)
            assert until(lambda: gauge(server, "kserve_engine_running_sentences") == 0)
        assert post(server, text=HUND).status_code == 200


def test_a_stream_that_nobody_reads_is_not_worked_for() -> None:
    with serving(tiny_bundle.bundle_folder(), threads="1", **WIDE) as server:
        body = {"text": LONG * 5, "target": "en", "source": "de", "decoding": {"beam_size": 32}}
        with server.client() as client, client.stream("POST", "/v1/translate/stream", json=body) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_lines()).startswith("event: sentence")
        assert until(lambda: gauge(server, "kserve_engine_queued_sentences") == 0)


@pytest.fixture(scope="module")
def impatient() -> Iterator[Server]:
    """A server that waits half a second for a sender; what one test does to it must not hurt the next."""
    limits = {"header_seconds": "0.5", "body_seconds": "0.5"}
    with serving(tiny_bundle.bundle_folder(), **limits) as running:
        yield running


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /hea", b""),
        (b"", b""),
        (b"POST /translate HTTP/1.1\r\nHost: x\r\nContent-Length: 90\r\n\r\n{", b"408"),
    ],
    ids=["head", "nothing", "body"],
)
def test_slow_senders_are_let_go(impatient: Server, sent: bytes, status: bytes) -> None:
    with socket.create_connection(address(impatient)) as slow:
        slow.sendall(sent)
        slow.settimeout(60)
        answer = b""
        while block := slow.recv(10_000):
            answer += block
        assert answer[9:12] == status
    assert post(impatient, text=HUND).status_code == 200


def test_who_only_sends_line_ends_after_a_request_is_let_go(impatient: Server) -> None:
    with socket.create_connection(address(impatient)) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(10_000).startswith(b"HTTP/1.1 200")

        def is_closed() -> bool:
            try:
                slow.sendall(b"\r\n")
            except ConnectionError:
                return True
            return False

        assert until(is_closed)


def test_a_client_that_does_not_read_is_let_go() -> None:
    with serving(tiny_bundle.bundle_folder(), idle_seconds="1") as server:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(address(server))
            deaf.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
            assert until(lambda: gauge(server, "process_open_fds") > 0)
            before = gauge(server, "process_open_fds")
            assert until(lambda: gauge(server, "process_open_fds") < before)
        assert post(server, text=HUND).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nContent-Length: 9999999999999999999999\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: a\r\n\tb\0c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /%00%ff%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nzz\r\n",
    ],
    ids=["tls", "version", "negative", "huge", "nul", "long-head", "path", "smuggled"],
)
def test_what_is_no_http(impatient: Server, sent: bytes) -> None:
    with socket.create_connection(address(impatient)) as strange:
        strange.settimeout(60)
        try:
            strange.sendall(sent)
            answer = b""
            while block := strange.recv(10_000):
                answer += block
                if b"\r\n\r\n" in answer:
                    break
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.split(b" ")[1][:1] in (b"4", b"2")
    assert b"Traceback" not in answer
    assert post(impatient, text=HUND).status_code == 200


def test_connections_beyond_the_limit_are_told(translator: Translator) -> None:
    with serving(tiny_bundle.bundle_folder(), max_connections="20") as server:
        held = [socket.create_connection(address(server)) for _ in range(20)]
        with socket.create_connection(address(server)) as one_more:
            one_more.settimeout(60)
            answer = one_more.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 503")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body)["code"] == "overloaded"
        for connection in held:
            connection.close()
        assert until(lambda: _answers(server))


def _answers(server: Server) -> bool:
    try:
        return post(server, text=HUND).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.proof
def test_ten_thousand_open_connections() -> None:
    with serving(tiny_bundle.bundle_folder(), header_seconds="300") as server:
        held = []
        for _ in range(10_000):
            held.append(socket.create_connection(address(server)))
        try:
            assert post(server, text=HUND).status_code == 200
            assert server.resident_bytes() < 400e6
        finally:
            for connection in held:
                connection.close()
        assert post(server, text=HUND).status_code == 200


def test_stopping_finishes_what_was_accepted(translator: Translator) -> None:
    wanted = translator.translate(LONG, beam_size=8, loop_guard=LOOP_GUARD).text
    with serving(tiny_bundle.bundle_folder(), threads="1", **WIDE) as server:
        with ThreadPoolExecutor(1) as pool:
            work = pool.submit(post, server, text=LONG, decoding={"beam_size": 8})
            assert until(lambda: gauge(server, "kserve_engine_queued_sentences") > 0)
            server.process.send_signal(signal.SIGTERM)
            answer = work.result()
            assert (answer.status_code, answer.json()["translations"][0]["text"]) == (200, wanted)
        assert server.process.wait(60) == 0
        server.wait_for("stopped")


@pytest.mark.parametrize("said", [False, True], ids=["fresh", "kept-alive"])
def test_a_request_that_comes_as_the_server_stops_is_refused_not_lost(said: bool) -> None:
    with serving(tiny_bundle.bundle_folder()) as server, ExitStack() as stack:
        connection = stack.enter_context(closing(HTTPConnection(*address(server), timeout=60)))
        connection.connect()
        body = json.dumps({"text": HUND, "source": "de", "target": "en"})
        for _ in range(said):
            connection.request("POST", "/v1/translate", body, {"Content-Type": "application/json"})
            assert json.load(connection.getresponse())["translations"]
        server.process.send_signal(signal.SIGTERM)
        assert until(lambda: not _listens(server))
        connection.request("POST", "/v1/translate", body, {"Content-Type": "application/json"})
        with connection.getresponse() as answer:
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            assert int(answer.headers["retry-after"]) >= 1
        assert server.process.wait(60) == 0


def _listens(server: Server) -> bool:
    try:
        socket.create_connection(address(server)).close()
    except ConnectionError:
        return False
    return True


def test_stopping_ends_in_bounded_time() -> None:
    limits = {"threads": "1", "stop_seconds": "1", **WIDE}
    with serving(tiny_bundle.bundle_folder(), **limits) as server, ThreadPoolExecutor(1) as pool:
        work = pool.submit(_tried, server, text=LONG * 8, decoding={"beam_size": 32})
        assert until(lambda: gauge(server, "kserve_engine_queued_sentences") > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert work.result() == 503
        assert not any("Traceback" in line for line in server.lines)


def _tried(server: Server, **body: Any) -> int:
    """The status, or 0 for a connection that was closed."""
    try:
        return post(server, **body).status_code
    except httpx.TransportError:
        return 0


def test_reloading_loses_and_mixes_up_nothing(tmp_path: Path) -> None:
    folder = tiny_bundle.copy_to(tmp_path / "model")
    old = Translator(folder, threads=1)
    other = tiny_bundle.write(tmp_path / "other", seed=99)
    new = Translator(other, threads=1)
    texts = [f"{HUND} {number}" for number in range(8)]
    before, after = (
        {text: model.translate(text, loop_guard=LOOP_GUARD).text for text in texts} for model in (old, new)
    )
    assert before != after
    with serving(folder, threads="2") as server:
        stop = threading.Event()
        answers: list[tuple[str, int, str]] = []

        def work() -> None:
            with server.client() as client:
                while not stop.is_set():
                    for text in texts:
                        answer = client.post("/translate", json={"q": text, "source": "de", "target": "en"})
                        answers.append((text, answer.status_code, answer.json()["translatedText"]))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for count in range(3):
            assert until(lambda wanted=30 * (count + 1): len(answers) > wanted)
            shutil.rmtree(folder)
            shutil.copytree(other, folder)
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("reloaded", count + 1)
        (folder / "tokenizer.model").unlink()  # what cannot be used changes nothing
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload failed; what was loaded goes on")
        stop.set()
        for thread in threads:
            thread.join()
        assert len(answers) > 50
        assert {status for _, status, _ in answers} == {200}
        assert all(found in (before[text], after[text]) for text, _, found in answers)
        last = {text: post(server, "/translate", q=text).json()["translatedText"] for text in texts}
        assert last == after


def test_memory_stays_small_over_a_thousand_requests() -> None:
    with serving(tiny_bundle.bundle_folder()) as server, server.client() as client:
        for number in range(1000):
            body = {"q": f"{HUND} {number}", "source": "auto", "target": "en"}
            assert client.post("/translate", json=body).status_code == 200
        assert server.resident_bytes() < 150e6


def test_memory_between_what_is_in_use_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_SECONDS", 0.01)
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    blocks = [library.malloc(100_000) for _ in range(1000)]
    for block in blocks:
        ctypes.memset(block, 1, 100_000)
    for block in blocks[:-1]:  # the last one keeps the heap's end where it is
        library.free(ctypes.c_void_p(block))
    before = resident_bytes(os.getpid())
    with contextlib.suppress(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(memory.give_back_freed(), 0.2))
    library.free(ctypes.c_void_p(blocks[-1]))
    assert resident_bytes(os.getpid()) < before - 80e6
