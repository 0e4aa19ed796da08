"""Other Python threads go on while the engine translates."""

from __future__ import annotations

import threading
import time

from small_models import sentences, small_model

from kserve import _engine


def test_other_threads_run_while_the_engine_translates() -> None:
    model = small_model("kmatrix")
    engine = model.engine("scalar")
    sources = sentences(64, model.sizes.vocab_size)
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        begin = time.perf_counter()
        engine.translate(sources, _engine.DecodingOptions(beam_size=8))
        end = time.perf_counter()
    finally:
        stop.set()
        ticker.join()
    # With the lock held, nothing could tick between the conversion of the arguments and of the result; the
    # middle half of the call is well between them.
    quarter = (end - begin) / 4
    assert end - begin > 0.05, "the call is too short to show anything"
    assert sum(begin + quarter < moment < end - quarter for moment in ticks) >= 3


def test_two_calls_overlap() -> None:
    model = small_model("kmatrix")
    engine = model.engine("scalar")
    sources = sentences(32, model.sizes.vocab_size)
    options = _engine.DecodingOptions(beam_size=4)
    both = threading.Barrier(2)

    def work() -> None:
        both.wait()
        for _ in range(5):
            engine.translate(sources, options)

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    # Calls that took turns would use one workspace after the other; two at once need two.
    single = model.engine("scalar")
    single.translate(sources, options)
    assert engine.workspace_bytes == 2 * single.workspace_bytes
