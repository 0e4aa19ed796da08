"""What a caller asks for (`Decoding`) as the engine's options: defaults of the model, everything checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kserve import _engine
from kserve.bundle import Bundle
from kserve.errors import InvalidParameter
from kserve.results import Decoding
from kserve.tokenizer import PADDING, Tokenizer

MAX_BEAM = 64  # wider beams only cost memory
_SAMPLING = ("temperature", "top_k", "top_p", "seed")


class Request:
    """The options of one call; every value is looked at by name, None stands for absent."""

    def __init__(self, given: Decoding, bundle: Bundle, tokenizer: Tokenizer) -> None:
        self._given: Mapping[str, Any] = {name: value for name, value in given.items() if value is not None}
        unknown = sorted(set(given) - set(Decoding.__annotations__))
        if unknown:
            known = ", ".join(Decoding.__annotations__)
            raise TypeError(f"unknown option {unknown[0]!r}; the options are {known}")
        self._defaults = bundle.generation
        self._has_shortlist = bundle.shape.shortlist is not None
        self._longest = bundle.shape.max_positions - 1
        self._tokenizer = tokenizer
        self.samples = any(name in self._given for name in _SAMPLING)

    def options(self, tell: Callable[[int, int], None] | None = None) -> _engine.DecodingOptions:
        """Engine options. tell: what to call with sentence and token as they are found."""
        beam, n_best = self._beam()
        return _engine.DecodingOptions(
            beam_size=beam,
            n_best=n_best,
            length_penalty=self._number("length_penalty", (0, 10), self._defaults.length_penalty),
            max_length=self._whole("max_length", (1, self._longest), 0),
            max_length_ratio=self._number("max_length_ratio", (0, 1000), self._defaults.max_length_ratio),
            max_length_extra=self._defaults.max_length_extra,
            shortlist=self._shortlist(),
            rules=_engine.BeamRules(
                early_stop=self._flag("early_stop", True),
                patience=self._number("patience", (1, 10), 1.0),
                coverage_penalty=self._number("coverage_penalty", (0, 10), 0.0),
            ),
            constraints=self._constraints(),
            sampling=self._sampling(),
            attention=self._flag("attention", False),
            control=self._control(tell),
        )

    def key(self) -> tuple[tuple[str, str], ...]:
        """The same for requests that decode alike."""
        return tuple(sorted((name, str(value)) for name, value in self._given.items()))

    @property
    def on_token(self) -> Callable[[int, int, str], None] | None:
        """The caller's own function, checked."""
        call: Callable[[int, int, str], None] | None = self._given.get("on_token")
        if call is not None and not callable(call):
            raise InvalidParameter(f"on_token is {call!r}; expected a function of text, segment and piece")
        return call

    def prefix(self) -> list[int]:
        """Ids of the text that translations begin with; empty for none."""
        text = self._given.get("prefix", "")
        if not isinstance(text, str):
            raise InvalidParameter(f"prefix is {type(text).__name__}; expected str")
        return self.prefix_ids(self._tokenizer.encode(text)[:-1], text) if text else []

    def prefix_ids(self, ids: list[int], shown: object) -> list[int]:
        """The ids, if the model can produce them."""
        if any(token <= PADDING for token in ids):
            raise InvalidParameter(
                f"prefix {shown!r} holds characters that the model's vocabulary lacks, so it can begin no "
                "translation; leave them out"
            )
        return ids

    def _beam(self) -> tuple[int, int]:
        n_best = self._whole("n_best", (1, MAX_BEAM), 1)
        if self.samples:
            beam = self._whole("beam_size", (1, MAX_BEAM), 1)
            if beam != 1:
                raise InvalidParameter(
                    f"beam_size is {beam}; with sampling ({', '.join(_SAMPLING)}) it can only be 1, and "
                    "n_best tells how many samples are drawn"
                )
            return 1, n_best
        default = 1 if self._given.get("on_token") else self._defaults.beam_size
        beam = self._whole("beam_size", (1, MAX_BEAM), max(default, n_best))
        if n_best > beam:
            raise InvalidParameter(f"n_best is {n_best}; it can be at most beam_size ({beam})")
        return beam, n_best

    def _shortlist(self) -> bool:
        wanted = self._flag("shortlist", self._defaults.shortlist)
        if wanted and not self._has_shortlist:
            raise InvalidParameter(
                "shortlist is True, and the model folder has none; export it with --shortlist, or leave it "
                "out"
            )
        return wanted

    def _constraints(self) -> _engine.Constraints:
        loop_guard = self._whole("loop_guard", (0, 1000), 0)
        if loop_guard == 1:
            raise InvalidParameter("loop_guard is 1; expected 0 (off) or at least 2, once is no repetition")
        most = self._given.get("max_length", self._longest)
        return _engine.Constraints(
            min_length=self._whole("min_length", (0, most), 0),
            min_length_ratio=self._number("min_length_ratio", (0, 1000), 0.0),
            suppressed=self._suppressed(),
            no_repeat_ngram=self._whole("no_repeat_ngram", (0, 1000), 0),
            repetition_penalty=self._number("repetition_penalty", (1, 100), 1.0),
            loop_guard=loop_guard,
        )

    def _suppressed(self) -> list[int]:
        pieces = self._given.get("suppress", ())
        if isinstance(pieces, str) or not isinstance(pieces, Sequence):
            raise InvalidParameter(f"suppress is {type(pieces).__name__}; expected a list of pieces")
        ids = self._tokenizer.ids(pieces)[:-1]
        for piece, token in zip(pieces, ids, strict=True):
            if token <= PADDING:
                raise InvalidParameter(
                    f"suppress holds {piece!r}; expected pieces of the model's vocabulary, such as '▁the'"
                )
        return ids

    def _sampling(self) -> _engine.Sampling | None:
        if not self.samples:
            return None
        return _engine.Sampling(
            temperature=self._number("temperature", (0.001, 100), 1.0),
            top_k=self._whole("top_k", (0, self._tokenizer.size - 3), 0),
            top_p=self._number("top_p", (1e-6, 1), 1.0),
            seed=self._whole("seed", (0, 2**64 - 1), 0),
        )

    def _control(self, tell: Callable[[int, int], None] | None) -> _engine.Control:
        cancel = self._given.get("cancel")
        if cancel is not None and not isinstance(cancel, _engine.CancelToken):
            raise InvalidParameter(f"cancel is {type(cancel).__name__}; expected a kserve.CancelToken")
        return _engine.Control(
            cancel=cancel, deadline=self._number("deadline", (1e-6, 1e6), 0.0), on_token=tell
        )

    def _whole(self, name: str, bounds: tuple[int, int], default: int) -> int:
        if name not in self._given:
            return default
        value, (least, most) = self._given[name], bounds
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidParameter(f"{name} is {value!r}; expected a whole number from {least} to {most}")
        return value

    def _number(self, name: str, bounds: tuple[float, float], default: float) -> float:
        value, (least, most) = self._given.get(name, default), bounds
        if name not in self._given:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise InvalidParameter(f"{name} is {value!r}; expected a number from {least:g} to {most:g}")
        return float(value)

    def _flag(self, name: str, default: bool) -> bool:
        value = self._given.get(name, default)
        if not isinstance(value, bool):
            raise InvalidParameter(f"{name} is {value!r}; expected True or False")
        return value
