"""Documents through the engine, without touching it: a generator says what to decode, and is told what came.

    steps = translate(documents, codec, wish)
    batch = next(steps)
    while True:
        batch = steps.send([the engine's translations of one.ids for one in batch])   # StopIteration: the end

The library drives it with a blocking call, the service with an awaited one; an empty batch only gives the
driver a chance to do something else in between.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from kserve.segment import Cutter
from kserve.text.blocks import Block, Document
from kserve.text.place import Word, kept_words, placed
from kserve.text.sentence import Candidate, Codec, Found, Sentence

_SLICE = 4  # sentences between two chances for the driver: half a millisecond


@dataclass(frozen=True)
class Wish:
    """How texts are to be handled."""

    split: bool = True  # into sentences
    align: bool = False  # keep which word stands for which
    prefix: tuple[int, ...] = ()  # ids that the first sentence of every text begins with


@dataclass(frozen=True)
class ToDecode:
    """Token ids for the engine: part `part` of sentence `sentence` of text `text`.

    A driver that is told of sentences as they are done may call `owner.take` itself for one that has a single
    part, to have its translation before the others'.
    """

    text: int
    sentence: int
    owner: Sentence
    ids: list[int]
    prefix: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """Whether its tokens are those of the translation."""
        return self.owner.is_plain


@dataclass(frozen=True)
class Told:
    """A sentence and its translations; `start`, `target_start`: where it is in the texts without markup."""

    owner: Sentence
    start: int
    target_start: int

    @property
    def source(self) -> str:
        """The sentence as the caller wrote it."""
        return self._shown(self.owner.text)

    @property
    def texts(self) -> tuple[str, ...]:
        """Its translations, best first."""
        return tuple(self._shown(one.text) for one in self.owner.candidates)

    def source_offset(self, place: int) -> int:
        """A place of `owner.text`, where placeholders are one character, in `source`."""
        return len(self._shown(self.owner.text[:place]))

    def target_offset(self, place: int) -> int:
        """The same for the best translation."""
        return len(self._shown(self.owner.candidates[0].text[:place]))

    def _shown(self, text: str) -> str:
        return self.owner.units.resolve(text, str)


@dataclass(frozen=True)
class Translated:
    """One text's translations, best first, and its sentences."""

    texts: tuple[str, ...]
    ranks: tuple[tuple[Candidate, ...], ...]  # the sentences' candidates of each of them
    sentences: tuple[Told, ...]


Steps = Generator[list[ToDecode], Sequence[Sequence[Found]], list[Translated]]


def translate(documents: Sequence[Document], codec: Codec, wish: Wish) -> Steps:
    """The translations of the documents, when everything has been decoded."""
    plans = [_Plan(document, codec, wish) for document in documents]
    for number, plan in enumerate(plans):
        for done, _ in enumerate(plan.prepare()):
            if (number + done) % _SLICE == _SLICE - 1:
                yield []
    waiting = [(text, at) for text, plan in enumerate(plans) for at in plan.waiting()]
    while waiting:
        asked = [plans[text].to_decode(text, at) for text, at in waiting]
        attempts = [plans[text].sentences[at].attempts for text, at in waiting]
        found = iter((yield [one for parts in asked for one in parts]))
        for done, (place, attempt, wanted) in enumerate(zip(waiting, attempts, asked, strict=True)):
            sentence = plans[place[0]].sentences[place[1]]
            parts = [next(found) for _ in wanted]
            if not sentence.candidates and sentence.attempts == attempt:
                sentence.take(parts)
            if done % _SLICE == _SLICE - 1:
                yield []
        waiting = [place for place in waiting if not plans[place[0]].sentences[place[1]].candidates]
    result: list[Translated] = []
    for plan in plans:
        result.append(plan.joined())
        if len(result) % _SLICE == 0:
            yield []
    return result


def needs_alignment(documents: Sequence[Document]) -> bool:
    """Whether there is something in them that is put back by alignment: decode with `attention` then."""
    return any(block.root.children or block.arrange for one in documents for block in _blocks(one))


class _Plan:
    """One document: its blocks, the parts of each, and the sentences among them."""

    def __init__(self, document: Document, codec: Codec, wish: Wish) -> None:
        self.codec, self.wish = codec, wish
        self.document = document
        self.blocks: dict[int, list[str | Sentence]] = {}  # by id of the block
        self.sentences: list[Sentence] = []

    def prepare(self) -> Iterator[None]:
        """Cut the blocks, and encode the sentences; yields after each."""
        for block in _blocks(self.document):
            count, limit = self.codec.tokenizer.count, self.codec.max_source_tokens
            cutter = Cutter(limit, count, self.codec.source_language, self.wish.split, block.lines)
            parts: list[str | Sentence] = []
            align = self.wish.align or bool(block.root.children or block.arrange)
            start = 0
            for part in cutter.cut(block.text):
                if part.translate:
                    sentence = Sentence(part.text, start, block.units, self.codec, align)
                    self.sentences.append(sentence)
                    parts.append(sentence)
                    yield
                else:
                    parts.append(part.text)
                start += len(part.text)
            self.blocks[id(block)] = parts

    def waiting(self) -> list[int]:
        """Numbers of the sentences that need the engine."""
        return [at for at, sentence in enumerate(self.sentences) if not sentence.candidates]

    def to_decode(self, text: int, at: int) -> list[ToDecode]:
        """The parts of a sentence's present attempt."""
        sentence = self.sentences[at]
        first = self.wish.prefix if at == 0 else ()
        return [
            ToDecode(text, at, sentence, part.ids, () if index else first)
            for index, part in enumerate(sentence.parts)
        ]

    def joined(self) -> Translated:
        """The whole texts: the k-th one takes every sentence's k-th candidate, or its last."""
        ranks = max((len(one.candidates) for one in self.sentences), default=1)
        texts = tuple("".join(self._written(self.document, rank)) for rank in range(ranks))
        chosen = tuple(
            tuple(_of_rank(sentence, rank) for sentence in self.sentences) for rank in range(ranks)
        )
        return Translated(texts, chosen, tuple(self._told()))

    def _written(self, document: Document, rank: int) -> Iterator[str]:
        for piece in document:
            if isinstance(piece, str):
                yield piece
                continue
            parts = self.blocks[id(piece)]
            if not any(isinstance(part, Sentence) for part in parts):
                yield from self._written([one for raw in piece.raw for one in _flat(raw)], rank)
            elif not piece.root.children and not piece.arrange:
                text = "".join(part if isinstance(part, str) else _of_rank(part, rank).text for part in parts)
                yield piece.resolve(text)
            elif piece.arrange:
                yield from self._written(piece.arrange(self._words(parts, rank), piece.resolve), rank)
            else:
                yield from self._written(placed(piece, self._words(parts, rank)), rank)

    def _words(self, parts: Sequence[str | Sentence], rank: int) -> list[Word]:
        words: list[Word] = []
        start = 0
        for part in parts:
            if isinstance(part, str):
                words += kept_words(part, start)
                start += len(part)
            else:
                words += _of_rank(part, rank).words
                start += len(part.text)
        return words

    def _told(self) -> Iterator[Told]:
        """The sentences with their places in the source and in the best translation; markup not counted."""
        start = target = 0
        for block in _blocks(self.document):
            for part in self.blocks[id(block)]:
                source = translation = part if isinstance(part, str) else part.text
                if isinstance(part, Sentence):
                    yield Told(part, start, target)
                    translation = part.candidates[0].text
                start += len(block.units.resolve(source, str))
                target += len(block.units.resolve(translation, str))


def _of_rank(sentence: Sentence, rank: int) -> Candidate:
    return sentence.candidates[min(rank, len(sentence.candidates) - 1)]


def _flat(raw: str | Document) -> Document:
    return [raw] if isinstance(raw, str) else raw


def _blocks(document: Document) -> Iterator[Block]:
    """The blocks of a document, those within elements of others after their own."""
    for piece in document:
        if isinstance(piece, Block):
            yield piece
            for raw in piece.raw:
                yield from _blocks(_flat(raw)) if not isinstance(raw, str) else ()
