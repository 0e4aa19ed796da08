"""The library: text in, text out, blocking.

    from kserve import Translator

    translator = Translator()                               # the bundled German-English model
    translator.translate("Ein Hund rennt.").text
    translator.translate(["Guten Tag!", "Wie geht's?"], beam_size=1)
    translator.translate("Ein Hund rennt.", n_best=3).hypotheses[1].text
    translator.score(["Ein Hund rennt."], ["A dog is running."])

A translator may be used from several threads at once; the interpreter lock is released while the engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from typing_extensions import Unpack

from kserve import _engine
from kserve.bundle import Bundle, read_bundle
from kserve.config import Settings
from kserve.decoding import Request
from kserve.errors import (
    BundleMissing,
    Cancelled,
    EngineFailure,
    InvalidParameter,
    SettingsError,
    TextTooLong,
)
from kserve.joining import hypotheses_of, teller, with_pieces
from kserve.results import Decoding, Hypothesis, TokenHypothesis, Translation
from kserve.text.blocks import Document
from kserve.text.job import ToDecode, Translated, Wish, needs_alignment, translate
from kserve.text.plain import parse_plain
from kserve.text.sentence import Codec, Found
from kserve.tokenizer import Tokenizer, clean

__all__ = ["Hypothesis", "TokenHypothesis", "Translation", "Translator", "bundled_model"]

BUNDLED = "de-en"


def bundled_model() -> Path:
    """The folder of the model that is used when none is named."""
    return next((path for path in bundled_models() if path.name == BUNDLED), bundled_models()[0])


def bundled_models() -> list[Path]:
    """The folders of the models that come with kserve, in the package or the checkout: `de-en` and so on."""
    package = Path(__file__).resolve().parent
    for folder in (package / "models", package.parent / "models"):
        found = sorted(file.parent for file in folder.glob("??-??/config.json"))
        if found:
            return found
    raise BundleMissing(
        f"no bundled model in {package / 'models'}; give the path of a model folder, or set KSERVE_MODEL"
    )


class Translator:
    """A loaded model. Everything about it is checked here, before the first sentence.

    Args:
        path: model folder, or a bundle that was read; KSERVE_MODEL or the bundled model when absent.
        isa: one of "amx", "avx512vnni", "avx512", "avx2", "scalar"; KSERVE_ISA or the best one when absent.
        threads: threads for one call with many sentences; KSERVE_THREADS or all available cores when absent.

    Raises:
        BundleError: the model folder cannot be used; the message names file or tensor and the remedy.
        SettingsError: the instruction set or the number of threads is not possible here.
    """

    def __init__(
        self, path: str | Path | Bundle | None = None, isa: str | None = None, threads: int | None = None
    ) -> None:
        read = path if isinstance(path, Bundle) else None
        settings = Settings.read(isa=isa, threads=threads, model=None if read else path)
        valid = _engine.available_isas()
        if settings.isa and settings.isa not in valid:
            raise SettingsError(
                f"instruction set {settings.isa!r} (KSERVE_ISA) is unknown or not supported by this "
                "processor; "
                f"use one of: {', '.join(valid)}"
            )
        self.bundle: Bundle = read or read_bundle(settings.model or bundled_model())
        self.tokenizer = Tokenizer(self.bundle.tokenizer, self.bundle.shape.vocab_size)
        try:
            self._engine = _engine.Engine(
                engine_architecture(self.bundle),
                self.bundle.tensors,
                isa=settings.isa,
                threads=settings.threads,
            )
        except ValueError as error:
            raise EngineFailure(f"{self.bundle.path}: {error}") from None

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self._engine.isa

    @property
    def threads(self) -> int:
        """Threads for one call with many sentences."""
        return self._engine.threads

    @property
    def engine(self) -> _engine.Engine:
        """The engine itself, for benchmarks and proofs: token ids in, token ids out."""
        return self._engine

    @property
    def languages(self) -> tuple[str, str]:
        """Codes of the source and the target language."""
        return self.bundle.source_language, self.bundle.target_language

    def warm(self) -> None:
        """Touch every weight and allocate the workspace, so that the first request is as fast as the next."""
        self._run([self.tokenizer.encode("a")], self.options())

    @property
    def codec(self) -> Codec:
        """What the handling of texts has to know of the model."""
        return Codec(self.tokenizer, *self.languages, self.bundle.generation.max_source_tokens)

    @overload
    def translate(
        self, text: str, *, split_sentences: bool = True, **decoding: Unpack[Decoding]
    ) -> Translation: ...

    @overload
    def translate(
        self, text: list[str] | tuple[str, ...], *, split_sentences: bool = True, **decoding: Unpack[Decoding]
    ) -> list[Translation]: ...

    def translate(
        self,
        text: str | list[str] | tuple[str, ...],
        *,
        split_sentences: bool = True,
        **decoding: Unpack[Decoding],
    ) -> Translation | list[Translation]:
        """Translate one text, or a list of them in one go (faster than one by one, and the same to the bit).

        Line breaks, space between sentences, NUL and control characters, and sentences without a letter come
        back unchanged, and so do placeholders, addresses and numbers; a lone surrogate comes back as U+FFFD.
        A sentence longer than the model's limit is split at clause marks or spaces; nothing is cut off.

        Args:
            text: a text, or a list of texts.
            split_sentences: whether a line is split into its sentences, which are what the model knows.
            decoding: `beam_size`, `n_best` and many more; see `Decoding`.

        Raises:
            InvalidParameter: an argument has a wrong type or an impossible value.
            Cancelled: the caller's token was cancelled.
        """
        self._request(decoding)
        texts = [text] if isinstance(text, str) else list(text)
        for index, item in enumerate(texts):
            if not isinstance(item, str):
                raise InvalidParameter(
                    f"text {index} is {type(item).__name__}; expected str or a list of str"
                )
        results = self._translate_texts(texts, decoding, split_sentences)
        return results[0] if isinstance(text, str) else results

    def translate_documents(
        self, documents: Sequence[Document], split_sentences: bool = True, **decoding: Unpack[Decoding]
    ) -> list[Translated]:
        """Translate documents of kserve.text: files and marked-up texts, whose elements keep their words."""
        request = self._request({**decoding, "attention": True} if needs_alignment(documents) else decoding)
        steps = translate(documents, self.codec, Wish(split_sentences, prefix=tuple(request.prefix())))
        found: Sequence[Sequence[Found]] | None = None
        try:
            while True:
                batch = next(steps) if found is None else steps.send(found)
                found = self._decoded(batch, request)
        except StopIteration as done:
            result: list[Translated] = done.value
            return result

    def translate_batch(
        self,
        batch: Sequence[Sequence[str]],
        prefixes: Sequence[Sequence[str]] | None = None,
        **decoding: Unpack[Decoding],
    ) -> list[list[TokenHypothesis]]:
        """Translate sentences that are already cut into the model's pieces; each gives `n_best` hypotheses.

        Args:
            batch: pieces of each sentence.
            prefixes: pieces that each translation must begin with.
            decoding: see `Decoding`; `prefix` is one text for all of them.

        Raises:
            TextTooLong: a sentence has more pieces than the model reads; pieces are not split here.
        """
        request = self._request(decoding)
        sources = self._sources(batch)
        given = [request.prefix()] * len(sources)
        if prefixes is not None:
            if len(prefixes) != len(sources):
                raise InvalidParameter(
                    f"there are {len(prefixes)} prefixes for {len(sources)} sentences; give one for each"
                )
            given = [request.prefix_ids(self.tokenizer.ids(one)[:-1], one) for one in prefixes]
        places = [(row, 0) for row in range(len(sources))]
        found = self._run(sources, self._options(request, places), given)
        return [[with_pieces(one, self.tokenizer) for one in hypotheses] for hypotheses in found]

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[list[float]]:
        """Log-probability of every token of the given translations, and last of their end.

        Raises:
            TextTooLong: a text has more tokens than the model reads; nothing is split here.
        """
        if len(sources) != len(targets):
            raise InvalidParameter(
                f"there are {len(sources)} sources and {len(targets)} targets; every source needs its target"
            )
        limit = self.bundle.shape.max_positions
        pairs = zip(sources, targets, strict=True)
        ids = [(self.tokenizer.encode(source), self.tokenizer.encode(target)) for source, target in pairs]
        for index, (source, target) in enumerate(ids):
            if len(source) > limit or len(target) >= limit:
                raise TextTooLong(
                    f"pair {index} has {len(source)} and {len(target)} tokens with the end tokens; the model "
                    f"reads at most {limit} and scores at most {limit - 1}"
                )
        try:
            return self._engine.score([source for source, _ in ids], [target[:-1] for _, target in ids])
        except ValueError as error:
            raise EngineFailure(str(error)) from None

    def options(self, **decoding: Unpack[Decoding]) -> _engine.DecodingOptions:
        """Engine options: the model's own defaults where nothing is given, everything checked."""
        return self._request(decoding).options()

    def _request(self, decoding: Decoding) -> Request:
        return Request(decoding, self.bundle, self.tokenizer)

    def _options(self, request: Request, places: Sequence[tuple[int, int] | None]) -> _engine.DecodingOptions:
        """Options of a call whose sentences are these (text, sentence of it); None: nothing is told of it."""
        call = request.on_token
        if call is None:
            return request.options()
        return request.options(teller(call, places, self.tokenizer))

    def _sources(self, batch: Sequence[Sequence[str]]) -> list[list[int]]:
        sources = [self.tokenizer.ids(pieces) for pieces in batch]
        limit = self.bundle.shape.max_positions
        for index, source in enumerate(sources):
            if len(source) > limit:
                raise TextTooLong(
                    f"sentence {index} has {len(source) - 1} pieces; the model reads at most {limit - 1}"
                )
        return sources

    def _translate_texts(self, texts: list[str], decoding: Decoding, split: bool) -> list[Translation]:
        documents = [parse_plain(clean(text)) for text in texts]
        found = self.translate_documents(documents, split, **decoding)
        penalty = self.options(**decoding).length_penalty
        return [
            Translation(text, hypotheses_of(one, penalty)) for text, one in zip(texts, found, strict=True)
        ]

    def _decoded(self, batch: Sequence[ToDecode], request: Request) -> list[list[_engine.Hypothesis]]:
        places = [(one.text, one.sentence) if one.is_plain else None for one in batch]
        return self._run(
            [one.ids for one in batch], self._options(request, places), [one.prefix for one in batch]
        )

    def _run(
        self,
        sources: list[list[int]],
        options: _engine.DecodingOptions,
        prefixes: Sequence[Sequence[int]] = (),
    ) -> list[list[_engine.Hypothesis]]:
        if not sources:
            return []
        try:
            return self._engine.translate(sources, options, prefixes if any(prefixes) else [])
        except _engine.Cancelled as error:
            raise Cancelled(str(error)) from None
        except _engine.OptionError as error:
            raise InvalidParameter(str(error)) from None
        except _engine.EngineError as error:
            raise EngineFailure(str(error)) from None


def engine_architecture(bundle: Bundle) -> _engine.Architecture:
    """The bundle's architecture as the engine takes it."""
    shape = bundle.shape
    return _engine.Architecture(
        vocab_size=shape.vocab_size,
        d_model=shape.d_model,
        d_ffn=shape.d_ffn,
        heads=shape.heads,
        encoder_kernels=list(shape.encoder_kernels),
        decoder_kernels=list(shape.decoder_kernels),
        glu=shape.glu,
        max_positions=shape.max_positions,
        linear={
            site: _engine.LinearSpec(
                kind.kind, width=kind.width, expansion=kind.expansion, precision=kind.precision
            )
            for site, kind in shape.linear.items()
        },
    )
