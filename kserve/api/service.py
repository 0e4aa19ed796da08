"""Checked requests to translations: limits, languages, models, deadlines. All APIs stand on this."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kserve._engine import Hypothesis
from kserve.api.access import Caller
from kserve.api.admission import Admission
from kserve.api.bundles import Bundles, Checked, Loaded
from kserve.api.cache import Cache
from kserve.api.driver import Drive, Orders, TellSentence, TellToken, Timings
from kserve.api.metrics import Metrics
from kserve.api.rates import Rates
from kserve.config import ServerSettings
from kserve.decoding import Request
from kserve.errors import NotReady, QuotaExceeded, TextTooLong, TooManyTexts
from kserve.results import Decoding
from kserve.text.blocks import Document
from kserve.text.detect import Guess, detect
from kserve.text.html import parse_html
from kserve.text.job import Translated, Wish, needs_alignment
from kserve.text.plain import parse_plain
from kserve.text.xml import XmlRules, parse_xml
from kserve.tokenizer import clean

AUTO = "auto"
_LARGE = 20_000  # characters
_SURE = 0.5  # below it, a language that can be translated is taken rather than the target itself
LOOP_GUARD = 4  # repetitions that end a translation, unless the request says otherwise


@dataclass(frozen=True)
class Ask:
    """A request to translate texts; `source` may be AUTO."""

    texts: Sequence[str]
    source: str
    target: str
    format: str = "text"  # or html, xml
    decoding: Decoding = field(default_factory=lambda: Decoding())
    split: bool = True
    lines: bool = True  # whether line breaks end sentences of plain text
    protect: bool = True
    align: bool = False
    xml: XmlRules = field(default_factory=XmlRules)
    deadline: float | None = None
    tell_token: TellToken | None = None
    tell_sentence: TellSentence | None = None


@dataclass(frozen=True)
class TextAnswer:
    """One text's translation; without `found` it was in the target language and is its own translation."""

    text: str
    source: str
    found: Translated | None
    loaded: Loaded | None
    guess: Guess | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The translations, best first."""
        return self.found.texts if self.found else (self.text,)


@dataclass(frozen=True)
class Answered:
    """The answer to a request."""

    answers: list[TextAnswer]
    timings: Timings


class Service:
    """What the routes of all APIs share; one for each app."""

    def __init__(self, settings: ServerSettings, bundles: Bundles) -> None:
        self.settings, self.bundles = settings, bundles
        self.metrics = Metrics(bundles)
        self.rates = Rates(settings.rate)
        self.cache: Cache[list[Hypothesis]] = Cache(settings.cache_sentences)
        self.used: dict[str, int] = {}  # characters by key
        self.ready = False
        self.admission = Admission(settings.max_requests, settings.target_seconds)
        self.metrics.request_limit.set_function(lambda: self.admission.limit)

    def require_ready(self) -> None:
        """Raises NotReady until the models are warm, and from when the server stops."""
        if not self.ready:
            raise NotReady("the models are not warm yet, or the server is stopping; try again in a moment")

    def require_room(self) -> None:
        """Refuse a translation before its body is read, parsed or counted.

        Raises:
            NotReady: see `require_ready`.
            Overloaded: as many requests as are let in are under way.
        """
        self.require_ready()
        self.admission.require()

    def check_sizes(self, texts: Sequence[str], caller: Caller) -> None:
        """Raises TooManyTexts or TextTooLong, with the number and the limit."""
        settings = self.settings
        if len(texts) > settings.max_texts:
            raise TooManyTexts(
                f"Invalid request: request ({len(texts)}) exceeds text limit ({settings.max_texts})"
            )
        limit = caller.max_characters or settings.max_characters
        for text in texts:
            if len(text) > limit:
                raise TextTooLong(
                    f"Invalid request: request ({len(text)}) exceeds text limit ({limit}) in characters"
                )
        total = sum(map(len, texts))
        most = max(settings.max_request_characters, limit)
        if total > most:
            raise TextTooLong(
                f"Invalid request: all texts together ({total}) exceed the limit of {most} characters"
            )

    def count(self, caller: Caller, texts: int, characters: int) -> None:
        """Count what a caller asks for.

        Raises:
            RateLimited: too many texts in a minute.
            QuotaExceeded: the key's characters are used up.
        """
        self.rates.take(caller.name, texts, caller.rate)
        if caller.has_key:
            used = self.used.get(caller.name, 0) + characters
            if caller.quota is not None and used > caller.quota:
                raise QuotaExceeded(f"the key's {caller.quota} characters are used up; ask for more")
            self.used[caller.name] = used

    async def translate(self, ask: Ask) -> Answered:
        """Texts, each from its language.

        Raises:
            UnsupportedLanguage: no model is loaded for a pair.
            Overloaded, DeadlineExceeded: not now.
        """
        texts = [clean(text) for text in ask.texts]
        parse = _parser(ask)
        guesses = await self._guesses(texts, ask)
        sources = [guess.language if guess else ask.source for guess in guesses]
        groups = {source: self.bundles.choose(source, ask.target) for source in dict.fromkeys(sources)}
        timings = Timings()
        answers: list[TextAnswer | None] = [None] * len(texts)
        with self.admission.place():
            for source, loaded in groups.items():
                rows = [row for row, one in enumerate(sources) if one == source]
                found: Sequence[Translated | None] = [None] * len(rows)
                if loaded is not None:
                    documents = await self._parsed(parse, [texts[row] for row in rows])
                    found = await self.documents(loaded, documents, _renumbered(ask, rows), timings)
                    self.metrics.characters.labels("-".join(loaded.pair)).inc(
                        sum(len(texts[row]) for row in rows)
                    )
                for row, one in zip(rows, found, strict=True):
                    answers[row] = TextAnswer(texts[row], source, one, loaded, guesses[row])
        return Answered([answer for answer in answers if answer is not None], timings)

    async def documents(
        self, loaded: Loaded, documents: Sequence[Document], ask: Ask, timings: Timings
    ) -> list[Translated]:
        """Documents through one model."""
        request, options = _checked(loaded, ask.decoding, ask.align or needs_alignment(documents))
        remembers = self.cache.size and not request.samples
        seconds = min(ask.deadline or self.settings.deadline, self.settings.file_deadline)
        orders = Orders(
            options=options,
            key=request.key() if remembers else None,
            until=time.monotonic() + seconds,
            tell_token=ask.tell_token,
            tell_sentence=ask.tell_sentence,
        )
        drive = Drive(loaded, self.cache, orders, timings)
        started = time.perf_counter()
        with loaded.used():
            found = await drive.run(documents, Wish(ask.split, ask.align, tuple(request.prefix())))
        # Counted when the answer is on its way.
        asyncio.get_running_loop().call_soon(self._observe, timings, time.perf_counter() - started)
        return found

    async def detect(self, texts: Sequence[str]) -> list[list[Guess]]:
        """The loaded languages of each text, best first."""
        languages = self.bundles.languages
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: [detect(clean(text), languages) for text in texts])

    async def source_of(self, text: str, target: str) -> str:
        """The language of a text that is to be translated into `target`."""
        return self._chosen((await self.detect([text]))[0], target).language

    async def _parsed(self, parse: Callable[[str], Document], texts: Sequence[str]) -> list[Document]:
        """The documents of texts; large ones are parsed in a thread, beside which other requests go on."""
        if sum(map(len, texts)) < _LARGE:
            return [parse(text) for text in texts]
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: [parse(text) for text in texts])

    async def _guesses(self, texts: Sequence[str], ask: Ask) -> Sequence[Guess | None]:
        if ask.source != AUTO:
            return [None] * len(texts)
        return [self._chosen(found, ask.target) for found in await self.detect(texts)]

    def _chosen(self, guesses: Sequence[Guess], target: str) -> Guess:
        """The best guess from which the target can be reached.

        A text to be translated is rarely in the target language: that is only believed when it is sure.
        """
        possible = {*self.bundles.sources(target), target}
        found = [guess for guess in guesses if guess.language in possible]
        if not found:
            self.bundles.choose(guesses[0].language, target)
        best = found[0]
        if best.language == target and best.confidence < _SURE and len(found) > 1:
            return found[1]
        return best

    def _observe(self, timings: Timings, total: float) -> None:
        phases = self.metrics.phases
        phases["queue"].observe(timings.queue)
        phases["tokenize"].observe(timings.tokenize)
        phases["decode"].observe(timings.decode)
        phases["total"].observe(total)
        self.admission.observe(timings.sentences, total)
        self.metrics.retries.inc(timings.retried)
        self.metrics.cache_hits.inc(timings.cached)


def _checked(loaded: Loaded, decoding: Decoding, align: bool) -> Checked:
    """How to decode, checked; the many requests that wish nothing share theirs."""
    if not decoding and align in loaded.usual:
        return loaded.usual[align]
    translator = loaded.translator
    wish: Decoding = {"loop_guard": LOOP_GUARD, **decoding, "attention": align}
    request = Request(wish, translator.bundle, translator.tokenizer)
    found = request, request.options()
    if not decoding:
        loaded.usual[align] = found
    return found


def _parser(ask: Ask) -> Callable[[str], Document]:
    if ask.format == "html":
        return lambda text: parse_html(text, ask.protect)
    if ask.format == "xml":
        return lambda text: parse_xml(text, ask.xml, ask.protect)
    return lambda text: parse_plain(text, ask.protect, ask.lines)


def _renumbered(ask: Ask, rows: Sequence[int]) -> Ask:
    """The request for some of its texts only: who is told hears the texts' numbers in the whole request."""
    token, sentence = ask.tell_token, ask.tell_sentence
    if token is None and sentence is None:
        return ask
    return replace(
        ask,
        tell_token=token and (lambda text, at, number, loaded: token(rows[text], at, number, loaded)),
        tell_sentence=sentence and (lambda text, at, one: sentence(rows[text], at, one)),
    )
