"""SubRip subtitles: numbers and times come back as they were; a sentence may run over several cues."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from kserve.text.blocks import Builder, Document
from kserve.text.place import Word
from kserve.text.plain import parse_plain

# Everything up to a cue's text: its number, if it has one, and its times.
_HEAD = re.compile(
    r"(?:^[ \t]*\d+[ \t]*\r?\n)?"
    r"^[ \t]*(?:\d+:)?\d+:\d+[,.]\d+[ \t]*-->[ \t]*(?:\d+:)?\d+:\d+[,.]\d+[^\n]*\n?",
    re.MULTILINE,
)
_END_OF_SENTENCE = re.compile(r"[.!?…:♪\])\"”»]\s*$")
_MARKUP = re.compile(r"[<{]|^\s*[-–—]|♪", re.MULTILINE)
_WIDTH = 42  # characters a line that viewers read at ease


@dataclass(frozen=True)
class _Cue:
    """The lines of a cue's text, and what stands after them up to the next cue's."""

    text: str
    rest: str
    lines: int


def parse_srt(source: str, protect: bool = True) -> Document:
    """The document of an SRT file; a text without cues is kept whole."""
    heads = list(_HEAD.finditer(source))
    if not heads:
        return [source]
    pieces: Document = [source[: heads[0].end()]]
    group: list[_Cue] = []
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        end = following.end() if following else len(source)
        text_end = following.start() if following else len(source)
        cue = _cue(source[head.end() : text_end], source[text_end:end])
        group.append(cue)
        if _MARKUP.search(cue.text) or _END_OF_SENTENCE.search(cue.text) or len(group) > 20:
            pieces += _written(group, protect)
            group = []
    return pieces + _written(group, protect)


def _cue(text: str, head: str) -> _Cue:
    core = text.strip()
    after = text[text.index(core) + len(core) :] if core else ""
    lead = text[: text.index(core)] if core else text
    return _Cue(lead + core, after + head, core.count("\n") + 1)


def _written(group: Sequence[_Cue], protect: bool) -> Document:
    """The cues of one sentence together, or those with markup one by one."""
    if any(_MARKUP.search(cue.text) for cue in group):
        return [piece for cue in group for piece in [*parse_plain(cue.text, protect), cue.rest]]
    builder = Builder(lambda text, _: text, protect=protect)
    starts = []
    for cue in group:
        starts.append(len(builder))
        builder.text(" ".join(cue.text.split()) + " ", [cue.text, cue.rest])
    pieces = builder.finish()
    for block in pieces:
        if not isinstance(block, str):
            block.arrange = partial(_arranged, cues=list(group), starts=starts)
    return pieces


def _arranged(
    words: Sequence[Word], resolve: Callable[[str], str], *, cues: Sequence[_Cue], starts: Sequence[int]
) -> Document:
    """The translation of a sentence, shared out among its cues."""
    pieces: Document = []
    cuts = _cuts(words, starts)
    for cue, low, high in zip(cues, cuts, cuts[1:], strict=False):
        text = " ".join(resolve("".join(word.text for word in words[low:high])).split())
        pieces += [_wrapped(text, cue.lines), cue.rest]
    return pieces


def _wrapped(text: str, lines: int) -> str:
    """In as many lines as there were, about equally long, or in one if that is short."""
    if lines == 1 or len(text) <= _WIDTH // 2:
        return text
    width = max(len(text) // lines, 1)
    while len(found := textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)) > lines:
        width += 1
    return "\n".join(found)


def _cuts(words: Sequence[Word], starts: Sequence[int]) -> list[int]:
    """Where each cue's words begin, and the end: in order, no cue empty, most words in their own cue."""
    edges = [
        at for at, word in enumerate(words) if word.is_word and (at == 0 or words[at - 1].text.isspace())
    ]
    ends = [*edges[1:], len(words)]
    cues = len(starts)
    if len(edges) <= cues:
        return [0, *edges[1:], *[len(words)] * (cues - max(len(edges), 1) + 1)]
    costs: list[float] = [0.0, *[math.inf] * (cues - 1)]
    moved: list[list[bool]] = []  # whether a cue's best way to this word begins the cue with it
    for at, (low, high) in enumerate(zip(edges, ends, strict=True)):
        wanted = _wanted(words[low:high], starts)
        before = [math.inf, *costs[:-1]]
        moved.append([at > 0 and before[cue] <= costs[cue] for cue in range(cues)])
        costs = [
            (min(costs[cue], before[cue]) if at else costs[cue]) + (wanted not in (cue, -1))
            for cue in range(cues)
        ]
    cue, cuts = cues - 1, [len(words)]
    for at in range(len(edges) - 1, 0, -1):
        if cue and moved[at][cue]:
            cuts.append(edges[at])
            cue -= 1
    return [0, *reversed(cuts)]


def _wanted(words: Sequence[Word], starts: Sequence[int]) -> int:
    """The cue that the words stand for; -1: any."""
    places = [place for word in words for place in word.sources]
    if not places:
        return -1
    middle = sorted(places)[len(places) // 2]
    return sum(start <= middle for start in starts) - 1
