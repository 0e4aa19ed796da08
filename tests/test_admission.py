"""How many requests are let in: a limit that finds itself."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from kserve.api.admission import SHORT, Admission
from kserve.errors import Overloaded


def full(admission: Admission, stack: ExitStack) -> int:
    """All places taken; how many that were."""
    taken = 0
    while True:
        try:
            stack.enter_context(admission.place())
        except Overloaded:
            return taken
        taken += 1


def test_no_more_than_the_limit_and_places_come_back() -> None:
    admission = Admission(most=3, target=0.5)
    with ExitStack() as stack:
        assert full(admission, stack) == 3
        with pytest.raises(Overloaded, match="3 requests are under way"), admission.place():
            pass
    assert admission.running == 0


def test_slow_answers_lower_the_limit_and_quick_ones_raise_it() -> None:
    admission = Admission(most=100, target=0.5)
    with ExitStack() as stack:
        taken = full(admission, stack)
        for _ in range(50):
            admission.observe(1, 2.0)  # late together: they count once
        assert admission.limit == taken / 2
    with ExitStack() as stack:
        lowered = full(admission, stack)
        assert lowered == taken // 2
        for _ in range(10_000):
            admission.observe(1, 0.1)
            full(admission, stack)
        assert admission.limit == 100


def test_it_never_closes_altogether(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Admission(most=100, target=0.001)
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with ExitStack() as stack:
        full(admission, stack)
        for _ in range(100):
            now += 100.0
            admission.observe(1, 50.0)
        assert admission.limit == 8


def test_what_says_nothing_about_the_load_changes_nothing() -> None:
    admission = Admission(most=100, target=0.5)
    before = admission.limit
    with admission.place():
        admission.observe(1, 20.0)  # slow by itself: nobody else is there
    with ExitStack() as stack:
        full(admission, stack)
        admission.observe(SHORT + 1, 20.0)
    assert admission.limit == before
