"""`kserve distill`: a teacher translates text, and the student learns from its translations.

Sequence-level distillation (Kim and Rush 2016): the teacher's beam search over the source side of the
training text, and over text that has no translation at all, gives pairs that are easier to learn than
people's. Written as PREFIX-distilled.SOURCE and .TARGET, they are a corpus like any other. With a teacher of
the other direction, the same files are back-translation: what people wrote is then the target side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kserve.train.data import Folders, read_lines, write_atomically
from kserve.train.recipe import RecipeError
from kserve.translator import Translator

CHUNK = 1024  # lines of one call of the engine, and at most so many are translated again after a stop


@dataclass(frozen=True)
class Plan:
    """What to translate.

    Attributes:
        teacher: Reads the language of the files.
        prefixes: Text files PREFIX.SOURCE, SOURCE being the teacher's source language.
        folders: Where they are looked for.
        out: Folder of the results.
        beam_size: Of the teacher's search.
    """

    teacher: Translator
    prefixes: Sequence[str]
    folders: Folders
    out: Path
    beam_size: int


@dataclass
class Outcome:
    """What became of one file's lines: how many gave a pair, and why others did not."""

    prefix: str
    lines: int = 0
    pairs: int = 0
    empty: int = 0
    too_long: int = 0  # more tokens than the teacher reads
    unfinished: int = 0  # the teacher came to no end, or to nothing
    seconds: float = 0.0
    files: list[str] = field(default_factory=list)


def distill(plan: Plan) -> dict[str, Any]:
    """Translate every file; what an earlier, interrupted call has done is not done again.

    Returns:
        Facts of the teacher and the outcome of each file, as JSON.

    Raises:
        RecipeError: a file cannot be read, or two have one name.
    """
    names = [Path(prefix).name for prefix in plan.prefixes]
    if len(set(names)) != len(names):
        raise RecipeError(f"two files of one name would overwrite each other: {', '.join(plan.prefixes)}")
    plan.out.mkdir(parents=True, exist_ok=True)
    outcomes = [_distill_file(plan, prefix) for prefix in plan.prefixes]
    bundle = plan.teacher.bundle
    return {
        "teacher": bundle.name,
        "model_sha256": bundle.config["files"]["model.safetensors"]["sha256"],
        "languages": list(plan.teacher.languages),
        "beam_size": plan.beam_size,
        "files": [asdict(outcome) for outcome in outcomes],
    }


def _results(plan: Plan, prefix: str) -> list[Path]:
    """Where both sides of a file's pairs are written, the source first."""
    return [plan.out / f"{Path(prefix).name}-distilled.{code}" for code in plan.teacher.languages]


def _distill_file(plan: Plan, prefix: str) -> Outcome:
    lines = read_lines(plan.folders.find(f"{prefix}.{plan.teacher.languages[0]}"))
    draft = plan.out / f"{Path(prefix).name}-distilled.part"
    done = _resumed(draft, plan, len(lines))
    started = time.monotonic()
    with (
        draft.open("a", encoding="utf-8") as file,
        tqdm(total=len(lines), initial=len(done), unit="line", desc=prefix) as bar,
    ):
        for start in range(len(done), len(lines), CHUNK):
            found = _translate(plan, lines[start : start + CHUNK])
            file.write("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in found))
            file.flush()
            done += found
            bar.update(len(found))
    outcome = Outcome(prefix, len(lines), seconds=round(time.monotonic() - started, 3))
    _finish(plan, outcome, zip(lines, done, strict=True))
    draft.unlink()
    return outcome


# An entry of a draft: the translation, or the name of the Outcome's count that the line belongs to.
Entry = dict[str, str]


def _resumed(draft: Path, plan: Plan, lines: int) -> list[Entry]:
    """The whole lines of a draft, whose first line says what made it; one made otherwise is begun anew."""
    made_by = {
        "model_sha256": plan.teacher.bundle.config["files"]["model.safetensors"]["sha256"],
        "beam_size": plan.beam_size,
        "lines": lines,
    }
    if draft.exists():
        head, *rest = draft.read_text(encoding="utf-8").splitlines(keepends=True)
        if head == json.dumps(made_by) + "\n":
            whole = [line for line in rest if line.endswith("\n")]
            draft.write_text(head + "".join(whole), encoding="utf-8")
            return [json.loads(line) for line in whole]
    draft.write_text(json.dumps(made_by) + "\n", encoding="utf-8")
    return []


def _translate(plan: Plan, lines: Sequence[str]) -> list[Entry]:
    """An entry for each line."""
    teacher = plan.teacher
    limit = teacher.bundle.generation.max_source_tokens
    ids = [teacher.tokenizer.encode(line) for line in lines]
    entries: list[Entry] = [
        {"left_out": "empty"} if len(one) == 1 else {"left_out": "too_long"} if len(one) > limit else {}
        for one in ids
    ]
    open_rows = [row for row, entry in enumerate(entries) if not entry]
    pieces = [teacher.tokenizer.pieces(ids[row][:-1]) for row in open_rows]
    answers = teacher.translate_batch(pieces, beam_size=plan.beam_size, loop_guard=4)
    for row, (best, *_) in zip(open_rows, answers, strict=True):
        text = teacher.tokenizer.decode(teacher.tokenizer.ids(best.tokens)[:-1]).strip()
        failed = best.truncated or best.looped or not text
        entries[row] = {"left_out": "unfinished"} if failed else {"text": text}
    return entries


def _finish(plan: Plan, outcome: Outcome, lines: Iterable[tuple[str, Entry]]) -> None:
    """Count the entries and write both sides."""
    kept = []
    for line, entry in lines:
        if "text" in entry:
            kept.append((line, entry["text"]))
        else:
            setattr(outcome, entry["left_out"], getattr(outcome, entry["left_out"]) + 1)
    outcome.pairs = len(kept)
    for path, side in zip(_results(plan, outcome.prefix), zip(*kept, strict=True), strict=False):
        write_atomically(path, ("\n".join(side) + "\n").encode("utf-8"))
        outcome.files.append(str(path))
