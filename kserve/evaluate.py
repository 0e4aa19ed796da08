"""`kserve eval`: translate a test file with the engine and score it with sacreBLEU (extra `bench`)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kserve.errors import InvalidParameter, MissingDependency
from kserve.results import Decoding
from kserve.tokenizer import decode_utf8

if TYPE_CHECKING:
    from kserve.translator import Translator


@dataclass(frozen=True)
class TestSet:
    """Source lines and their reference translations."""

    source: list[str]
    reference: list[str]


def read_test_set(source: Path, reference: Path) -> TestSet:
    """Both sides, line by line; they must have the same number of lines."""
    sides = [_lines(source), _lines(reference)]
    if len(sides[0]) != len(sides[1]):
        raise InvalidParameter(
            f"{source} has {len(sides[0])} lines, {reference} has {len(sides[1])}; line n of one must be the "
            "translation of line n of the other"
        )
    if not sides[0]:
        raise InvalidParameter(f"{source} is empty; give a file with a sentence a line")
    return TestSet(*sides)


def evaluate(translator: Translator, test: TestSet, decoding: Decoding) -> dict[str, Any]:
    """Scores with their signatures, and speed; the clock runs over tokenising, decoding and joining."""
    metrics, options = _metrics(), translator.options(**decoding)
    translator.warm()
    started = time.perf_counter()
    answers = translator.translate(test.source, **decoding)
    seconds = time.perf_counter() - started
    hypotheses = [answer.text for answer in answers]
    result: dict[str, Any] = {"signatures": {}}
    for name, metric in metrics.items():
        result[name] = round(float(metric.corpus_score(hypotheses, [test.reference]).score), 4)
        result["signatures"][name] = str(metric.get_signature())
    return {
        **result,
        "signature": result["signatures"]["bleu"],
        "sentences": len(hypotheses),
        "seconds": round(seconds, 3),
        "sentences_per_second": round(len(hypotheses) / seconds, 2),
        "truncated": sum(answer.truncated for answer in answers),
        "beam_size": options.beam_size,
        "shortlist": options.shortlist,
        "bundle": translator.bundle.name,
        "model_sha256": translator.bundle.config["files"]["model.safetensors"]["sha256"],
        "isa": translator.isa,
        "threads": translator.threads,
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """The result as a JSON file, in one move."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def summary(result: dict[str, Any]) -> str:
    """The result for a person."""
    return (
        f"BLEU {result['bleu']:.2f}   chrF {result['chrf']:.2f}   TER {result['ter']:.2f}\n"
        f"{result['sentences']} sentences in {result['seconds']} s: {result['sentences_per_second']} "
        "sentences/s "
        f"(beam {result['beam_size']}, {result['isa']}, {result['threads']} threads)\n"
        + "\n".join(f"{name}: {signature}" for name, signature in result["signatures"].items())
    )


def _lines(path: Path) -> list[str]:
    """Lines of a file; only LF (or CRLF) ends one, so that both sides are counted alike."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidParameter(
            f"cannot read {path}: {error.strerror}; give a text file with a sentence a line"
        ) from None
    lines = decode_utf8(data).split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _metrics() -> dict[str, Any]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
        from sacrebleu.metrics.ter import TER
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"scoring needs the module {error.name}; install the extra: pip install "
            "'kmatrix-serve[bench]', or "
            "pip install '.[bench]' in the source folder"
        ) from None
    return {"bleu": BLEU(), "chrf": CHRF(), "ter": TER()}
