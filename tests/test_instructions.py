"""Work of one sentence, in instructions: a change that makes it more must say so by changing the record.

Instructions are the same on an idle and a busy machine, which seconds are not. callgrind counts those of the
whole process; what three sentences take more than one is two sentences' work. It knows no AVX-512, so the
AVX2 path is counted, and another compiler makes other instructions, so each has its own record.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from debian import command

pytestmark = pytest.mark.proof

RECORD = Path(__file__).with_name("instruction_counts.json")
MOST_GROWTH = 0.03
PROGRAM = """
import sys
from kserve import Translator

translator = Translator(isa="avx2", threads=1)
for _ in range(int(sys.argv[1])):
    translator.translate("Gestern habe ich mit meiner Schwester ein neues Fahrrad gekauft.", beam_size=1)
"""


def compiler() -> str:
    """The version of the C++ compiler, such as `g++ 12.2.0`."""
    name = os.environ.get("CXX", "g++")
    line = subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"\d+\.\d+\.\d+", line)
    assert version, line
    return f"{name} {version[0]}"


def instructions(valgrind: str, sentences: int) -> int:
    count = [valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*count, sys.executable, "-c", PROGRAM, str(sentences)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    found = re.search(r"Collected : (\d+)", ended.stderr)
    assert found, ended.stderr
    return int(found[1])


def test_a_sentence_takes_no_more_instructions_than_recorded() -> None:
    valgrind = command(["valgrind"], ["valgrind"])
    with ThreadPoolExecutor(2) as pool:
        one, three = pool.map(lambda sentences: instructions(valgrind, sentences), (1, 3))
    found = (three - one) // 2
    recorded = json.loads(RECORD.read_text(encoding="utf-8"))
    known = recorded.get(compiler())
    if known is None:
        pytest.skip(f"{RECORD.name} has no count for {compiler()}; here a sentence takes {found}")
    assert found <= known * (1 + MOST_GROWTH), (
        f"a sentence takes {found} instructions, {found / known - 1:+.1%} on what {RECORD.name} says; if the "
        "change is worth it, write the new number there"
    )
    assert found >= known * (1 - MOST_GROWTH), (
        f"{found} instructions: write the better number into {RECORD.name}"
    )
