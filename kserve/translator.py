"""The library: text in, text out, blocking.

    from kserve import Translator

    translator = Translator()                               # the bundled German-English model
    translator.translate("Ein Hund rennt.").text
    translator.translate(["Guten Tag!", "Wie geht's?"], beam_size=1)
    translator.translate("Ein Hund rennt.", n_best=3).hypotheses[1].text

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
from kserve.errors import BundleMissing, EngineFailure, InvalidParameter, SettingsError, TextTooLong
from kserve.results import Decoding, Hypothesis, TokenHypothesis, Translation
from kserve.segment import Part, cut
from kserve.tokenizer import Tokenizer, clean

__all__ = ["Hypothesis", "TokenHypothesis", "Translation", "Translator", "bundled_model"]

BUNDLED = "de-en"
MAX_BEAM = 64  # wider beams only cost memory


def bundled_model() -> Path:
    """The folder of the model that comes with kserve: in the installed package, or in the checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "models" / BUNDLED, package.parent / "models" / BUNDLED):
        if (folder / "config.json").is_file():
            return folder
    raise BundleMissing(
        f"no bundled model in {package / 'models' / BUNDLED}; give the path of a model folder, or set "
        "KSERVE_MODEL"
    )


class Translator:
    """A loaded model. Everything about it is checked here, before the first sentence.

    Args:
        path: model folder; KSERVE_MODEL or the bundled model when absent.
        isa: one of "avx512vnni", "avx512", "avx2", "scalar"; KSERVE_ISA or the best one when absent.
        threads: threads for one call with many sentences; KSERVE_THREADS or all available cores when absent.

    Raises:
        BundleError: the model folder cannot be used; the message names file or tensor and the remedy.
        SettingsError: the instruction set or the number of threads is not possible here.
    """

    def __init__(
        self, path: str | Path | None = None, isa: str | None = None, threads: int | None = None
    ) -> None:
        settings = Settings.read(isa=isa, threads=threads, model=path)
        valid = _engine.available_isas()
        if settings.isa and settings.isa not in valid:
            raise SettingsError(
                f"instruction set {settings.isa!r} (KSERVE_ISA) is unknown or not supported by this "
                "processor; "
                f"use one of: {', '.join(valid)}"
            )
        self.bundle: Bundle = read_bundle(settings.model or bundled_model())
        self.tokenizer = Tokenizer(self.bundle.tokenizer, self.bundle.shape.vocab_size)
        try:
            self._engine = _engine.Engine(
                _architecture(self.bundle), self.bundle.tensors, isa=settings.isa, threads=settings.threads
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

    @overload
    def translate(self, text: str, **decoding: Unpack[Decoding]) -> Translation: ...

    @overload
    def translate(
        self, text: list[str] | tuple[str, ...], **decoding: Unpack[Decoding]
    ) -> list[Translation]: ...

    def translate(
        self, text: str | list[str] | tuple[str, ...], **decoding: Unpack[Decoding]
    ) -> Translation | list[Translation]:
        """Translate one text, or a list of them in one go (faster than one by one, and the same to the bit).

        Line breaks, space around lines, NUL and control characters, and lines without a letter come back
        unchanged; a lone surrogate comes back as U+FFFD. A line longer than the model's limit is split at
        sentence marks, clause marks or spaces; nothing is cut off.

        Args:
            text: a text, or a list of texts.
            decoding: `beam_size`, `n_best`, `length_penalty`, `max_length`; see `Decoding`.

        Raises:
            InvalidParameter: an argument has a wrong type or an impossible value.
        """
        options = self.options(**decoding)
        texts = [text] if isinstance(text, str) else list(text)
        for index, item in enumerate(texts):
            if not isinstance(item, str):
                raise InvalidParameter(
                    f"text {index} is {type(item).__name__}; expected str or a list of str"
                )
        results = self._translate_texts(texts, options)
        return results[0] if isinstance(text, str) else results

    def translate_batch(
        self, batch: Sequence[Sequence[str]], **decoding: Unpack[Decoding]
    ) -> list[list[TokenHypothesis]]:
        """Translate sentences that are already cut into the model's pieces; each gives `n_best` hypotheses.

        Raises:
            TextTooLong: a sentence has more pieces than the model reads; pieces are not split here.
        """
        options = self.options(**decoding)
        sources = [self.tokenizer.ids(pieces) for pieces in batch]
        limit = self.bundle.shape.max_positions
        for index, source in enumerate(sources):
            if len(source) > limit:
                raise TextTooLong(
                    f"sentence {index} has {len(source) - 1} pieces; the model reads at most {limit - 1}"
                )
        return [[self._with_pieces(one) for one in found] for found in self._run(sources, options)]

    def options(
        self,
        *,
        beam_size: int | None = None,
        n_best: int = 1,
        length_penalty: float | None = None,
        max_length: int | None = None,
    ) -> _engine.DecodingOptions:
        """Engine options: the model's own defaults where nothing is given, everything checked."""
        defaults = self.bundle.generation
        _whole("n_best", n_best, MAX_BEAM)
        beam = (
            max(defaults.beam_size, n_best) if beam_size is None else _whole("beam_size", beam_size, MAX_BEAM)
        )
        if n_best > beam:
            raise InvalidParameter(f"n_best is {n_best}; it can be at most beam_size ({beam})")
        penalty = defaults.length_penalty if length_penalty is None else length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not 0 <= penalty <= 10:
            raise InvalidParameter(f"length_penalty is {penalty!r}; expected a number from 0 to 10")
        longest = self.bundle.shape.max_positions - 1
        return _engine.DecodingOptions(
            beam_size=beam,
            n_best=n_best,
            length_penalty=float(penalty),
            max_length=0 if max_length is None else _whole("max_length", max_length, longest),
            max_length_ratio=defaults.max_length_ratio,
            max_length_extra=defaults.max_length_extra,
        )

    def _translate_texts(self, texts: list[str], options: _engine.DecodingOptions) -> list[Translation]:
        limit = self.bundle.generation.max_source_tokens
        plans = [cut(clean(text), limit, self.tokenizer.count) for text in texts]
        sources: list[list[int]] = []
        places: dict[tuple[int, int], int] = {}  # (text, part) → its sentence in `sources`
        for row, plan in enumerate(plans):
            for column, part in enumerate(plan):
                ids = self.tokenizer.encode(part.text) if part.translate else []
                # A part in a script that the vocabulary lacks says nothing to the model: it is kept as it is.
                if self.tokenizer.knows(ids):
                    places[row, column] = len(sources)
                    sources.append(ids)
        found = self._run(sources, options)
        results = []
        for row, (text, plan) in enumerate(zip(texts, plans, strict=True)):
            answers = [found[places[row, at]] if (row, at) in places else None for at in range(len(plan))]
            results.append(Translation(text, self._joined(plan, answers, options)))
        return results

    def _joined(
        self,
        plan: list[Part],
        answers: list[list[_engine.Hypothesis] | None],
        options: _engine.DecodingOptions,
    ) -> tuple[Hypothesis, ...]:
        """Whole texts: the k-th one takes every segment's k-th hypothesis, or its last."""
        ranks = max((len(answer) for answer in answers if answer), default=1)
        joined = []
        for rank in range(ranks):
            pieces, chosen = [], []
            for part, answer in zip(plan, answers, strict=True):
                if answer is None:
                    pieces.append(part.text)
                    continue
                chosen.append(answer[min(rank, len(answer) - 1)])
                pieces.append(self.tokenizer.decode(chosen[-1].tokens))
            joined.append(
                Hypothesis("".join(pieces), _score(chosen, options), any(one.truncated for one in chosen))
            )
        return tuple(joined)

    def _with_pieces(self, hypothesis: _engine.Hypothesis) -> TokenHypothesis:
        return TokenHypothesis(
            tokens=tuple(self.tokenizer.pieces(hypothesis.tokens)),
            score=hypothesis.score,
            log_probability=hypothesis.log_probability,
            token_log_probabilities=tuple(hypothesis.token_log_probabilities),
            truncated=hypothesis.truncated,
        )

    def _run(
        self, sources: list[list[int]], options: _engine.DecodingOptions
    ) -> list[list[_engine.Hypothesis]]:
        if not sources:
            return []
        try:
            return self._engine.translate(sources, options)
        except ValueError as error:
            raise EngineFailure(str(error)) from None


def _score(chosen: list[_engine.Hypothesis], options: _engine.DecodingOptions) -> float:
    """One segment's own score; for several, the same formula over all their tokens."""
    if len(chosen) == 1:
        return chosen[0].score
    tokens = sum(len(hypothesis.token_log_probabilities) for hypothesis in chosen)
    total = sum(hypothesis.log_probability for hypothesis in chosen)
    return float(total / tokens**options.length_penalty) if tokens else 0.0


def _whole(name: str, value: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InvalidParameter(f"{name} is {value!r}; expected a whole number from 1 to {most}")
    return value


def _architecture(bundle: Bundle) -> _engine.Architecture:
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
            site: _engine.LinearSpec(kind.kind, width=kind.width, expansion=kind.expansion)
            for site, kind in shape.linear.items()
        },
    )
