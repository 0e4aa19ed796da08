"""Locust users that check the body of every answer.

    locust -f loadtest/locustfile.py ClosedUser --headless -H http://127.0.0.1:8000 -u 16 -t 10s \\
        --expected expected.json --kind single --results closed.json
    locust -f loadtest/locustfile.py OpenUser --headless -H http://127.0.0.1:8000 -u 1 \\
        --expected expected.json --kind mixed --rates 50,100,200 --step-seconds 5 --results steps.json

ClosedUser sends when it has its answer: many of them find out what the server can do. OpenUser sends at
random times of a given rate, whatever comes back: what a crowd does. Exit code 1: a wrong answer, an error
that is no refusal with Retry-After, or a limit exceeded.
"""

from __future__ import annotations

import json
import random
import re
import time
from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Pool
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError
from locust import User, constant, events, task
from locust.env import Environment

from loadtest.record import Outcome, summary
from loadtest.traffic import KINDS, Sent, Traffic, read_expected

_PHASE = re.compile(r"(\w+);dur=([\d.]+)")
_TIMEOUT = 60.0  # seconds; longer is a hang


@events.init_command_line_parser.add_listener
def _arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--expected", type=Path, required=True, help="JSON: sentence to translation")
    parser.add_argument("--kind", choices=KINDS, default="mixed", help="what is sent")
    parser.add_argument("--array-size", type=int, default=25, help="sentences of an array")
    parser.add_argument("--rates", default="10", help="OpenUser: requests a second, one number a step")
    parser.add_argument("--step-seconds", type=float, default=10.0, help="OpenUser: length of a step")
    parser.add_argument("--seed", type=int, default=1, help="of what is sent, and when")
    parser.add_argument(
        "--warm-seconds", type=float, default=0.0, help="ClosedUser: not counted at the start"
    )
    parser.add_argument("--most-p99-ms", type=float, help="limit for accepted requests")
    parser.add_argument("--most-refused", type=float, help="limit for the share of refused requests")
    parser.add_argument("--results", type=Path, help="JSON file to write")


@dataclass
class Run:
    """What the users of this process share."""

    options: Any = None
    expected: dict[str, str] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


RUN = Run()  # locust gives its users nothing but their environment, which has no place for it


@events.init.add_listener
def _start(environment: Environment, **_: Any) -> None:
    RUN.options = environment.parsed_options
    RUN.expected = read_expected(RUN.options.expected)


@events.quitting.add_listener
def _finish(environment: Environment, **_: Any) -> None:
    """Sum up, write, and set the exit code from what was found."""
    options = RUN.options
    is_open = OpenUser in environment.user_classes
    steps = [_step(number, is_open) for number in sorted({one.step for one in RUN.outcomes})]
    if options.results:
        options.results.write_text(json.dumps(steps, indent=2) + "\n", encoding="utf-8")
    broken = [
        f"step {number}: {what}" for number, one in enumerate(steps) for what in _exceeded(one, options)
    ]
    for line in broken or ["every answer was right"]:
        print(line)  # noqa: T201
    environment.process_exit_code = 1 if broken or not steps else 0


def _step(number: int, is_open: bool) -> dict[str, Any]:
    options = RUN.options
    outcomes = [one for one in RUN.outcomes if one.step == number]
    if is_open:
        return summary(outcomes, float(options.rates.split(",")[number]), options.step_seconds)
    # What was answered between the warm-up and the end of sending, while all users were busy.
    begun = min(one.due for one in outcomes) + options.warm_seconds
    ended = max(one.due for one in outcomes)
    counted = [one for one in outcomes if one.fault or begun <= one.due + one.seconds <= ended]
    return summary(counted, None, max(ended - begun, 1e-3))


def _exceeded(step: dict[str, Any], options: Any) -> list[str]:
    found = [f"{count} × {fault}" for fault, count in step["faults"].items()]
    if options.most_p99_ms is not None and (step["p99_ms"] or 0) > options.most_p99_ms:
        found.append(f"p99 is {step['p99_ms']} ms, the limit {options.most_p99_ms}")
    share = step["refused"] / max(1, step["requests"])
    if options.most_refused is not None and share > options.most_refused:
        found.append(f"{share:.1%} were refused, the limit is {options.most_refused:.1%}")
    return found


@dataclass(frozen=True)
class Answer:
    """What came back; without a status, why nothing did."""

    status: int = 0
    body: bytes = b""
    timing: str = ""
    retry_after: str = ""
    error: str = ""


class CheckedUser(User):
    """Sends, checks, and remembers.

    By the client beneath locust's own, which takes half as long again: the sender has the server's cores.
    """

    abstract = True
    connections = 1

    def on_start(self) -> None:
        """Requests of its own, so that two users do not ask the same."""
        options = RUN.options
        self.random = random.Random(f"{options.seed} {id(self)}")
        seed = self.random.randrange(1 << 30)
        self.traffic = Traffic(RUN.expected, options.kind, seed, options.array_size)
        self.client = HTTPClient.from_url(
            str(self.host),
            concurrency=self.connections,
            connection_timeout=_TIMEOUT,
            network_timeout=_TIMEOUT,
        )

    def send(self, sent: Sent) -> Answer:
        """One request and what came back."""
        try:
            found = self.client.request("POST", sent.path, sent.body, sent.headers)
            timing, retry = (str(found.get(name, "")) for name in ("Server-Timing", "Retry-After"))
            return Answer(found.status_code, found.read(), timing, retry)
        except (OSError, HTTPParseError) as error:
            return Answer(error=f"{type(error).__name__}: {error}")

    def ask(self, sent: Sent, step: int, due: float) -> float:
        """One request and what became of it; the seconds that a refusal asks to wait."""
        late = time.perf_counter() - due
        answer = self.send(sent)
        seconds = time.perf_counter() - due
        fault = answer.error or sent.judge(answer.status, answer.body, answer.retry_after)
        phases = {name: float(ms) for name, ms in _PHASE.findall(answer.timing)}
        count = len(sent.expected)
        RUN.outcomes.append(Outcome(step, sent.kind, due, seconds, late, answer.status, count, fault, phases))
        self.environment.events.request.fire(
            request_type="POST",
            name=sent.kind,
            response_time=1e3 * seconds,
            response_length=len(answer.body),
            exception=RuntimeError(fault) if fault else None,
            context={},
        )
        return float(answer.retry_after or 0)


class ClosedUser(CheckedUser):
    """Sends the next request when it has the answer to the last one."""

    wait_time = constant(0)

    @task
    def repeat(self) -> None:
        """One request, and the wait that its refusal asks for."""
        gevent.sleep(self.ask(self.traffic.next(), 0, time.perf_counter()))


class OpenUser(CheckedUser):
    """Sends at random times of each step's rate, and never waits for an answer. One of it is enough."""

    connections = 5_000
    wait_time = constant(0)

    @task
    def crowd(self) -> None:
        """All steps, then the end of the run."""
        options = RUN.options
        pool = Pool()
        due = time.perf_counter()
        for step, rate in enumerate(map(float, options.rates.split(","))):
            end = time.perf_counter() + options.step_seconds
            due = max(due, end - options.step_seconds)
            while (due := due + self.random.expovariate(rate)) < end:
                gevent.sleep(max(0.0, due - time.perf_counter()))
                pool.spawn(self.ask, self.traffic.next(), step, due)
            pool.join()  # what one step left behind is not the next one's
        self.environment.runner.quit()
