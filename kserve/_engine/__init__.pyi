"""
The translation engine and, for tests and benchmarks, its kernels.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
from . import kernels
from . import timing
__all__: list[str] = ['Architecture', 'DecodingOptions', 'Engine', 'EngineError', 'Hypothesis', 'LinearSpec', 'available_isas', 'butterfly_backward', 'butterfly_forward', 'kernels', 'timing']
class EngineError(ValueError):
    pass
class LinearSpec:
    """
    How the linear layer of one site is stored.
    """
    def __init__(self, kind: str, width: typing.SupportsInt | typing.SupportsIndex = 1, expansion: typing.SupportsInt | typing.SupportsIndex = 1, precision: str = 'float16') -> None:
        ...
    def __repr__(self) -> str:
        ...
    @property
    def expansion(self) -> int:
        ...
    @property
    def kind(self) -> str:
        ...
    @property
    def precision(self) -> str:
        ...
    @property
    def width(self) -> int:
        ...
class Architecture:
    """
    The sizes of a model, as in a bundle's config.json.
    """
    def __init__(self, vocab_size: typing.SupportsInt | typing.SupportsIndex, d_model: typing.SupportsInt | typing.SupportsIndex, d_ffn: typing.SupportsInt | typing.SupportsIndex, heads: typing.SupportsInt | typing.SupportsIndex, encoder_kernels: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], decoder_kernels: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], glu: bool, max_positions: typing.SupportsInt | typing.SupportsIndex, linear: collections.abc.Mapping[str, LinearSpec]) -> None:
        ...
    @property
    def d_ffn(self) -> int:
        ...
    @property
    def d_model(self) -> int:
        ...
    @property
    def decoder_kernels(self) -> list[int]:
        ...
    @property
    def encoder_kernels(self) -> list[int]:
        ...
    @property
    def glu(self) -> bool:
        ...
    @property
    def heads(self) -> int:
        ...
    @property
    def linear(self) -> dict[str, LinearSpec]:
        ...
    @property
    def max_positions(self) -> int:
        ...
    @property
    def vocab_size(self) -> int:
        ...
class DecodingOptions:
    """
    How to decode; checked when a call uses them.
    """
    def __init__(self, beam_size: typing.SupportsInt | typing.SupportsIndex = 1, n_best: typing.SupportsInt | typing.SupportsIndex = 1, length_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0, max_length: typing.SupportsInt | typing.SupportsIndex = 0, max_length_ratio: typing.SupportsFloat | typing.SupportsIndex = 2.0, max_length_extra: typing.SupportsInt | typing.SupportsIndex = 10, max_batch_tokens: typing.SupportsInt | typing.SupportsIndex = 4096, min_length: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
    @property
    def beam_size(self) -> int:
        ...
    @property
    def length_penalty(self) -> float:
        ...
    @property
    def max_batch_tokens(self) -> int:
        """
        Source tokens times beam that are worked on together.
        """
    @property
    def max_length(self) -> int:
        """
        Tokens with the end token; 0: from the source.
        """
    @property
    def max_length_extra(self) -> int:
        ...
    @property
    def max_length_ratio(self) -> float:
        ...
    @property
    def min_length(self) -> int:
        """
        Target tokens before the end token is allowed.
        """
    @property
    def n_best(self) -> int:
        ...
class Hypothesis:
    """
    One translation of a sentence.
    """
    @property
    def log_probability(self) -> float:
        ...
    @property
    def score(self) -> float:
        """
        log_probability / length ** length_penalty
        """
    @property
    def token_log_probabilities(self) -> list[float]:
        """
        One a token; the end token's is last, unless truncated.
        """
    @property
    def tokens(self) -> list[int]:
        """
        Without begin and end.
        """
    @property
    def truncated(self) -> bool:
        """
        The length cap came before the end token.
        """
class Engine:
    """
    A model ready to translate; may be used from several threads at once.
    """
    def __init__(self, architecture: Architecture, tensors: dict[str, numpy.ndarray], isa: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    def encode(self, source: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> numpy.typing.NDArray[numpy.float32]:
        """
        The encoder's states of one source, (time, d_model).
        """
    def translate(self, sources: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], options: DecodingOptions) -> list[list[Hypothesis]]:
        """
        The n_best translations of every source (token ids, the end id last), best first.
        """
    @property
    def isa(self) -> str:
        ...
    @property
    def threads(self) -> int:
        ...
    @property
    def workspace_bytes(self) -> int:
        """
        Memory held for computing, all workers together.
        """
def available_isas() -> list[str]:
    """
    Instruction sets this machine can run, best first.
    """
def butterfly_backward(x: numpy.typing.NDArray[numpy.float32], twiddle: numpy.typing.NDArray[numpy.float32], grad: numpy.typing.NDArray[numpy.float32], tile: typing.SupportsInt | typing.SupportsIndex, isa: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 1) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]:
    """
    Gradients of x and twiddle from grad (rows, out), that of the output.
    """
def butterfly_forward(x: numpy.typing.NDArray[numpy.float32], twiddle: numpy.typing.NDArray[numpy.float32], bias: numpy.typing.NDArray[numpy.float32], tile: typing.SupportsInt | typing.SupportsIndex, isa: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 1) -> numpy.typing.NDArray[numpy.float32]:
    """
    y (rows, out) = x (rows, in) times the grid of K-matrices of `twiddle`, plus bias (out).
    """
