"""What a server must stand: overload, big requests beside small ones, long use, restarts, aborts."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from loadtest import servers
from loadtest.client import Client, Tally
from loadtest.offline import Offline
from loadtest.servers import Load, Target, run_locust
from loadtest.traffic import Traffic

BIG = 1_000  # sentences of an array that others must not wait for
_OVERLOAD = 4  # times what saturates
_SETTLE_SECONDS = 2.0


def overload(offline: Offline, seconds: float, folder: Path) -> dict[str, Any]:
    """Four times what the server can do; then it must be as quick as it was before."""
    expected = offline.write(folder / "expected.json")
    with servers.kserve(offline.bundle) as target:
        closed = Load("ClosedUser", "single", 64, max(3.0, seconds / 10))
        [saturated] = run_locust(target, closed, expected, folder / "closed.json")
        before = idle(target, offline, 200)
        rate = _OVERLOAD * saturated["sentences_per_second"]
        load = Load("OpenUser", "single", rates=[rate], step_seconds=seconds)
        [step] = run_locust(target, load, expected, folder / "open.json")
        time.sleep(_SETTLE_SECONDS)
        after = idle(target, offline, 200)
        return {
            **step,
            "saturated": saturated["sentences_per_second"],
            "idle_before": before,
            "idle_after": after,
        }


def idle(target: Target, offline: Offline, requests: int) -> dict[str, float]:
    """Milliseconds of single sentences, one at a time."""
    traffic = Traffic(offline.translations, "single", 1)
    tally = Tally()
    with Client(target.url) as client:
        for _ in range(requests):
            client.ask(traffic.next(), tally)
    tally.require_right()
    return tally.milliseconds()


def fairness(offline: Offline, seconds: float) -> dict[str, Any]:
    """One user's single sentences, alone and while another sends big arrays."""
    # The other user is a process, as it would be elsewhere: a thread would keep this one waiting itself.
    context = multiprocessing.get_context("spawn")
    stop, begun = context.Event(), context.Event()
    arrays, told = context.Pipe(duplex=False)
    with servers.kserve(offline.bundle) as target:
        alone = _while(target, offline, seconds)
        arguments = (target.url, offline.translations, told, begun, stop)
        other = context.Process(target=_send_arrays, args=arguments)
        other.start()
        told.close()
        if not begun.wait(servers.START_SECONDS):
            other.kill()
            raise RuntimeError(f"the sender of arrays did not begin within {servers.START_SECONDS} s")
        beside = _while(target, offline, seconds)
        stop.set()
        answered = arrays.recv()
        other.join()
    for tally in (alone, beside):
        tally.require_right()
    return {"alone": alone.milliseconds(), "beside_arrays": beside.milliseconds(), "arrays": answered}


def soak(offline: Offline, counts: Sequence[int], users: int = 16) -> dict[str, Any]:
    """Memory after so many requests of mixed size."""
    memory: dict[str, float] = {}
    done = 0
    with servers.kserve(offline.bundle) as target:
        for count in counts:
            tally = Tally()
            _share(target, offline, count - done, users, tally)
            tally.require_right()
            done = count
            memory[str(count)] = round(target.resident_mb(), 2)
    return {"resident_mb": memory, "growth": round(memory[str(counts[-1])] / memory[str(counts[0])] - 1, 4)}


def bad_weather(offline: Offline, seconds: float, users: int = 8) -> dict[str, Any]:
    """Users go on while the server is restarted, its model is reloaded, and others hang up in the middle."""
    tally, stop = Tally(), threading.Event()
    port = servers.free_port()
    events = {"restarts": 0, "reloads": 0, "aborts": 0}
    with ThreadPoolExecutor(users + 1) as pool:
        traffics = [Traffic(offline.translations, "mixed", seed) for seed in range(users)]
        url = f"http://127.0.0.1:{port}"
        asking = [pool.submit(_persist, url, one, tally, stop) for one in traffics]
        aborting = pool.submit(_abort, url, Traffic(offline.translations, "array", 99), events, stop)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                with servers.kserve(offline.bundle, port) as target:
                    for _ in range(2):
                        time.sleep(min(1.0, seconds / 8))
                        target.process.send_signal(signal.SIGHUP)
                        events["reloads"] += 1
                    time.sleep(min(1.0, seconds / 8))
                    if target.terminate() != 0:
                        raise RuntimeError("the server did not end with code 0")
                events["restarts"] += 1
        finally:
            stop.set()
            for one in [*asking, aborting]:
                one.result()
    return {**events, **tally.counts()}


def _while(target: Target, offline: Offline, seconds: float) -> Tally:
    tally = Tally()
    traffic = Traffic(offline.translations, "single", 3)
    end = time.monotonic() + seconds
    with Client(target.url) as client:
        while time.monotonic() < end:
            client.ask(traffic.next(), tally)
            time.sleep(0.005)
    return tally


def _send_arrays(url: str, translations: dict[str, str], told: Connection, begun: Event, stop: Event) -> None:
    """Big arrays one after the other; tells how many were answered. None may be answered wrongly."""
    traffic = Traffic(translations, "array", 2, min(BIG, len(translations)))
    tally = Tally()
    with Client(url) as client:
        begun.set()
        while not stop.is_set():
            client.ask(traffic.next(), tally)
    tally.require_right()
    told.send(len(tally.seconds))


def _share(target: Target, offline: Offline, requests: int, users: int, tally: Tally) -> None:
    """So many requests by so many users."""

    def send(number: int) -> None:
        traffic = Traffic(offline.translations, "mixed", number, array=10)
        with Client(target.url) as client:
            for _ in range(requests // users):
                client.ask(traffic.next(), tally)

    with ThreadPoolExecutor(users) as pool:
        list(pool.map(send, range(users)))


def _persist(url: str, traffic: Traffic, tally: Tally, stop: threading.Event) -> None:
    """Each request until it is answered; a server that is not there was never asked."""
    while not stop.is_set():
        sent = traffic.next()
        while not Client.once(url, sent, tally) and not stop.is_set():
            time.sleep(0.02)


def _abort(url: str, traffic: Traffic, events: dict[str, int], stop: threading.Event) -> None:
    """Hangs up at some time after the request was sent."""
    wait = 0.0
    while not stop.is_set():
        with suppress(OSError, HTTPException), Client(url) as client:
            client.send(traffic.next())
            time.sleep(wait)
            events["aborts"] += 1
        wait = (wait + 0.003) % 0.05
