"""The engines that `kserve bench decode` compares, behind one interface: token ids in, token ids out.

Every module that only one of them needs is imported by that one: a worker process holds one engine, and its
memory is that engine's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kserve.errors import InvalidParameter

if TYPE_CHECKING:
    from torch import Tensor

    from kserve.train.model import DynamicConvModel, Source

KSERVE = ("kserve", "kserve-dense-int8", "kserve-dense-fp16", "kserve-dense-fp32")
TORCH = ("torch-k", "torch-dense")
CTRANSLATE2 = ("ctranslate2-int8", "ctranslate2-float32")
ENGINES = (*KSERVE, *TORCH, *CTRANSLATE2)
# The same weights in the same precision as the bundle: these must answer alike.
SAME_WEIGHTS = ("kserve-dense-fp32", "torch-dense")
END = 2
VOCABULARY_START = ["<unk>", "<s>", "</s>"]  # of the CTranslate2 model; word N follows them


@dataclass(frozen=True)
class Setting:
    """Which engine, its files (bundle, checkpoint or CTranslate2 model), and on what it may run."""

    engine: str
    model: Path
    threads: int
    isa: str = ""


@dataclass(frozen=True)
class Job:
    """Sentences that are decoded in one call; target_tokens forces the length, 0 leaves it to the model.

    shortlist: whether only tokens that may translate the source's are looked at, which torch cannot.
    """

    sources: Sequence[list[int]]
    beam: int = 1
    target_tokens: int = 0
    shortlist: bool = False


class Answer(NamedTuple):
    """The best translation without its end token, and its score where the engine tells one."""

    tokens: list[int]
    score: float = math.nan


class Rival(ABC):
    """A loaded engine."""

    isa = ""

    @abstractmethod
    def decode(self, job: Job) -> list[Answer]:
        """The best translation of every sentence."""

    def encode(self, source: list[int]) -> Any:
        """The encoder's states (time, d) of a sentence."""
        raise NotImplementedError(f"{type(self).__name__} does not show its encoder's states")

    def worst_gap(self, source: list[int], tokens: list[int]) -> float:
        """How far, at worst, a token is from this model's own best one, in units of the logits' deviation."""
        raise NotImplementedError(f"{type(self).__name__} does not show its logits")


def make_rival(setting: Setting) -> Rival:
    """Load an engine."""
    if setting.engine in KSERVE:
        return KserveRival(setting)
    if setting.engine in TORCH:
        return TorchRival(setting)
    if setting.engine in CTRANSLATE2:
        return CTranslate2Rival(setting)
    raise InvalidParameter(f"engine {setting.engine!r} is unknown; expected one of: {', '.join(ENGINES)}")


class KserveRival(Rival):
    """This engine, on the bundle or on a dense twin of it."""

    def __init__(self, setting: Setting) -> None:
        from kserve.translator import Translator

        self.translator = Translator(setting.model, setting.isa or None, setting.threads)
        self.isa = self.translator.isa

    def decode(self, job: Job) -> list[Answer]:
        from kserve import _engine

        defaults = self.translator.bundle.generation
        # Without an end token exactly max_length tokens come.
        no_end = _engine.Constraints(suppressed=[END] if job.target_tokens else [])
        options = _engine.DecodingOptions(
            beam_size=job.beam,
            length_penalty=defaults.length_penalty,
            max_length=job.target_tokens,
            max_length_ratio=defaults.max_length_ratio,
            max_length_extra=defaults.max_length_extra,
            shortlist=job.shortlist,
            constraints=no_end,
        )
        found = self.translator.engine.translate(list(job.sources), options)
        return [Answer(best[0].tokens, best[0].score) for best in found]

    def encode(self, source: list[int]) -> Any:
        return self.translator.engine.encode(source)


class TorchRival(Rival):
    """The torch model: `torch-dense` is the bundle multiplied out, `torch-k` a checkpoint's own factors."""

    def __init__(self, setting: Setting) -> None:
        import torch

        from kserve.bundle import read_bundle
        from kserve.train.restore import load_model, restore

        torch.set_num_threads(setting.threads)
        self.model: DynamicConvModel
        self.limits = (0.0, 0)  # length ratio and extra; without a bundle, lengths must be forced
        if setting.engine == "torch-k":
            self.model = load_model(setting.model)
            return
        bundle = read_bundle(setting.model)
        self.model = restore(bundle)
        self.limits = (bundle.generation.max_length_ratio, bundle.generation.max_length_extra)

    def decode(self, job: Job) -> list[Answer]:
        import torch

        if job.beam != 1 or job.shortlist:
            raise InvalidParameter("the torch model decodes greedily only, and without a shortlist")
        with torch.inference_mode():
            if not job.target_tokens:
                return [Answer(ids) for ids in self.model.greedy(list(job.sources), *self.limits)]
            return [Answer(ids) for ids in self._forced(job)]

    def _forced(self, job: Job) -> list[list[int]]:
        """Greedy, the end token allowed only after target_tokens tokens."""
        import torch

        source = self._prepare(job.sources)
        histories = self.model.start_histories(len(job.sources))
        ids = torch.full((len(job.sources),), 1)
        steps = []
        for position in range(job.target_tokens):
            ids = self._logits(source, ids, position, histories).argmax(1)
            steps.append(ids)
        result: list[list[int]] = torch.stack(steps, dim=1).tolist()
        return result

    def _prepare(self, sources: Sequence[list[int]]) -> Source:
        import torch

        longest = max(map(len, sources))
        return self.model.prepare(torch.tensor([ids + [3] * (longest - len(ids)) for ids in sources]))

    def _logits(self, source: Source, ids: Tensor, position: int, histories: list[Tensor]) -> Tensor:
        """(batch, vocab) with unknown, begin, end and padding left out."""
        logits = self.model.step(source, ids, position, histories) @ self.model.embedding.weight.t()
        logits[:, :4] = -math.inf
        return logits

    def worst_gap(self, source: list[int], tokens: list[int]) -> float:
        import torch

        with torch.inference_mode():
            prepared, histories = self._prepare([source]), self.model.start_histories(1)
            worst, before = 0.0, 1
            for position, token in enumerate(tokens):
                logits = self._logits(prepared, torch.tensor([before]), position, histories)[0, 4:]
                gap = float((logits.max() - logits[token - 4]) / logits.std())
                worst, before = max(worst, gap), token
        return worst


class CTranslate2Rival(Rival):
    """CTranslate2 on a Transformer of the same sizes.

    A batch is shared out to its threads by sentences, which is faster; one sentence is given all of them.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.start = len(VOCABULARY_START)
        self.loaded: dict[bool, Any] = {}
        self._translator(batched=False)

    def _translator(self, batched: bool) -> Any:
        import ctranslate2

        if batched not in self.loaded:
            threads = self.setting.threads
            self.loaded.clear()  # one at a time, or its memory is counted twice
            self.loaded[batched] = ctranslate2.Translator(
                str(self.setting.model),
                device="cpu",
                compute_type=self.setting.engine.partition("-")[2],
                inter_threads=threads if batched else 1,
                intra_threads=1 if batched else threads,
            )
        return self.loaded[batched]

    def decode(self, job: Job) -> list[Answer]:
        if not job.target_tokens:
            raise InvalidParameter("CTranslate2 has weights of its own; force the length (--target-length)")
        threads, batched = self.setting.threads, len(job.sources) > 1
        found = self._translator(batched).translate_batch(
            [[self._word(id_) for id_ in source] for source in job.sources],
            max_batch_size=-(-len(job.sources) // threads) if threads > 1 else 0,
            beam_size=job.beam,
            min_decoding_length=job.target_tokens,
            max_decoding_length=job.target_tokens,
            use_vmap=job.shortlist,
        )
        return [Answer([self._id(word) for word in result.hypotheses[0]]) for result in found]

    def _word(self, id_: int) -> str:
        return "</s>" if id_ == END else f"w{id_ - self.start}"

    def _id(self, word: str) -> int:
        return int(word[1:]) + self.start if word.startswith("w") else 0
