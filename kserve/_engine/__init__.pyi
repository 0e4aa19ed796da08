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
from . import training
__all__: list[str] = ['Architecture', 'BatchEvent', 'BatchStats', 'Batcher', 'BeamRules', 'CancelToken', 'Cancelled', 'Constraints', 'Control', 'DecodingOptions', 'Engine', 'EngineError', 'Hypothesis', 'LayerForm', 'LinearSpec', 'OptionError', 'PassForm', 'Sampling', 'available_isas', 'butterfly_backward', 'butterfly_forward', 'kernels', 'timing', 'training']
class EngineError(ValueError):
    pass
class OptionError(EngineError):
    pass
class Cancelled(EngineError):
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
class BeamRules:
    """
    When a beam search ends, and what its scores are made of.
    """
    def __init__(self, early_stop: bool = True, patience: typing.SupportsFloat | typing.SupportsIndex = 1.0, coverage_penalty: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> None:
        ...
    @property
    def coverage_penalty(self) -> float:
        ...
    @property
    def early_stop(self) -> bool:
        """
        End when beam_size * patience hypotheses have ended; else when none can get better.
        """
    @property
    def patience(self) -> float:
        ...
class Constraints:
    """
    What may come next in a hypothesis.
    """
    def __init__(self, min_length: typing.SupportsInt | typing.SupportsIndex = 0, min_length_ratio: typing.SupportsFloat | typing.SupportsIndex = 0.0, suppressed: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = [], no_repeat_ngram: typing.SupportsInt | typing.SupportsIndex = 0, repetition_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0, loop_guard: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
    @property
    def loop_guard(self) -> int:
        """
        A hypothesis ends when its last n-gram has come so often in a row; 0: off.
        """
    @property
    def min_length(self) -> int:
        """
        Tokens with the end token.
        """
    @property
    def min_length_ratio(self) -> float:
        """
        The same, for each source token.
        """
    @property
    def no_repeat_ngram(self) -> int:
        """
        No such n-gram twice; 0: off.
        """
    @property
    def repetition_penalty(self) -> float:
        """
        Factor of the log-probability of tokens that have come.
        """
    @property
    def suppressed(self) -> list[int]:
        """
        Ids that never come; with the end token among them every length is the cap.
        """
class Sampling:
    """
    Draw tokens; n_best tells how many samples of a sentence.
    """
    def __init__(self, temperature: typing.SupportsFloat | typing.SupportsIndex = 1.0, top_k: typing.SupportsInt | typing.SupportsIndex = 0, top_p: typing.SupportsFloat | typing.SupportsIndex = 1.0, seed: typing.SupportsInt | typing.SupportsIndex = 0, first_sentence: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
    @property
    def first_sentence(self) -> int:
        """
        Number of the call's first sentence; a sentence's draws depend on its number.
        """
    @property
    def seed(self) -> int:
        ...
    @property
    def temperature(self) -> float:
        ...
    @property
    def top_k(self) -> int:
        """
        Only the best k tokens; 0: all.
        """
    @property
    def top_p(self) -> float:
        """
        Only the best tokens that hold this share together.
        """
class CancelToken:
    """
    Ends the calls that hold it within one step; cancel() from any thread.
    """
    def __init__(self) -> None:
        ...
    def cancel(self) -> None:
        ...
    @property
    def cancelled(self) -> bool:
        ...
class Control:
    """
    How a call can end before its time.
    """
    def __init__(self, cancel: CancelToken | None = None, deadline: typing.SupportsFloat | typing.SupportsIndex = 0.0, on_token: collections.abc.Callable[[int, int], None] | None = None) -> None:
        ...
    @property
    def cancel(self) -> CancelToken | None:
        ...
    @property
    def deadline(self) -> float:
        """
        Seconds from the start of the call; 0: none.
        """
class DecodingOptions:
    """
    How to decode; checked when a call uses them.
    """
    def __init__(self, beam_size: typing.SupportsInt | typing.SupportsIndex = 1, n_best: typing.SupportsInt | typing.SupportsIndex = 1, length_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0, max_length: typing.SupportsInt | typing.SupportsIndex = 0, max_length_ratio: typing.SupportsFloat | typing.SupportsIndex = 2.0, max_length_extra: typing.SupportsInt | typing.SupportsIndex = 10, max_batch_tokens: typing.SupportsInt | typing.SupportsIndex = 4096, shortlist: bool = True, rules: BeamRules = ..., constraints: Constraints = ..., sampling: Sampling | None = None, attention: bool = False, attention_layer: typing.SupportsInt | typing.SupportsIndex = -1, control: Control = ...) -> None:
        ...
    @property
    def attention(self) -> bool:
        """
        Keep the attention of every token.
        """
    @property
    def attention_layer(self) -> int:
        """
        Of this decoder layer; -1: the last.
        """
    @property
    def beam_size(self) -> int:
        ...
    @property
    def constraints(self) -> Constraints:
        ...
    @property
    def control(self) -> Control:
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
    def n_best(self) -> int:
        ...
    @property
    def rules(self) -> BeamRules:
        ...
    @property
    def sampling(self) -> Sampling | None:
        ...
    @property
    def shortlist(self) -> bool:
        """
        Look only at tokens that may translate the source's, where the model has such a list.
        """
class Hypothesis:
    """
    One translation of a sentence.
    """
    @property
    def alignment(self) -> list[int]:
        """
        For each token the source position that it looked at most; empty unless attention was asked for.
        """
    @property
    def attention(self) -> numpy.typing.NDArray[numpy.float32] | None:
        """
        (time, source), averaged over heads, the end token's row last, unless truncated; None unless asked for.
        """
    @property
    def log_probability(self) -> float:
        ...
    @property
    def looped(self) -> bool:
        """
        The loop guard ended it.
        """
    @property
    def score(self) -> float:
        """
        log_probability / length ** length_penalty, and what other penalties were asked for.
        """
    @property
    def timed_out(self) -> bool:
        """
        The deadline ended it.
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
        It has no end token: the length cap, the loop guard or the deadline came first.
        """
class PassForm:
    """
    A pass over the squares of a K-matrix.
    """
    @property
    def radix(self) -> int:
        """
        Chunks of 16 numbers that stay in registers together.
        """
    @property
    def rows_together(self) -> int:
        """
        Rows that share each loaded weight.
        """
class LayerForm:
    """
    How the engine runs all linear layers of one shape and kind.
    """
    @property
    def grid(self) -> tuple[int, int]:
        """
        Rows and columns of squares; zeros for dense layers.
        """
    @property
    def inputs(self) -> int:
        ...
    @property
    def kind(self) -> str:
        ...
    @property
    def layers(self) -> int:
        """
        How many there are.
        """
    @property
    def outputs(self) -> int:
        ...
    @property
    def passes(self) -> list[PassForm]:
        """
        Over each square, in order; empty for dense layers.
        """
    @property
    def precision(self) -> str:
        ...
    @property
    def sites(self) -> list[str]:
        """
        Where they are, such as decoder.ffn_in.
        """
    @property
    def square(self) -> int:
        """
        Numbers that a square of the K-matrix works on; 0 for dense layers.
        """
    @property
    def width(self) -> int:
        ...
class Engine:
    """
    A model ready to translate; may be used from several threads at once.
    """
    def __init__(self, architecture: Architecture, tensors: dict[str, numpy.ndarray], isa: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    def encode(self, source: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> numpy.typing.NDArray[numpy.float32]:
        """
        The encoder's states of one source, each normalised, (time, d_model).
        """
    def layer_forms(self) -> list[LayerForm]:
        """
        Which kernel runs the linear layers, shape by shape.
        """
    def score(self, sources: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], targets: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], cancel: CancelToken | None = None) -> list[list[float]]:
        """
        Log-probabilities of the tokens of given targets, and of the end token after each.
        """
    def translate(self, sources: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], options: DecodingOptions, prefixes: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]] = []) -> list[list[Hypothesis]]:
        """
        The n_best translations of every source (token ids, the end id last), best first. prefixes: tokens that each target must begin with, or none.
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
class BatchEvent:
    """
    Something that has happened to a request.
    """
    @property
    def hypotheses(self) -> list[Hypothesis]:
        """
        Of a sentence, best first.
        """
    @property
    def kind(self) -> str:
        """
        'token', 'sentence' or 'failure', which ends the request.
        """
    @property
    def message(self) -> str:
        """
        Of a failure.
        """
    @property
    def queue_seconds(self) -> float:
        """
        How long a sentence waited to be begun.
        """
    @property
    def request(self) -> int:
        ...
    @property
    def sentence(self) -> int:
        ...
    @property
    def token(self) -> int:
        ...
class BatchStats:
    """
    What happens in a batcher now, and what has happened so far.
    """
    @property
    def queued_sentences(self) -> int:
        ...
    @property
    def queued_tokens(self) -> int:
        """
        Source tokens that no thread has begun.
        """
    @property
    def rows(self) -> int:
        """
        Hypotheses in all of them.
        """
    @property
    def running_rows(self) -> int:
        """
        Hypotheses in the last step.
        """
    @property
    def running_sentences(self) -> int:
        ...
    @property
    def sentences(self) -> int:
        ...
    @property
    def source_tokens(self) -> int:
        ...
    @property
    def steps(self) -> int:
        """
        Decoder steps so far.
        """
    @property
    def target_tokens(self) -> int:
        ...
class Batcher:
    """
    Sentences of many requests, decoded by threads of its own; what happens is collected.
    """
    def __init__(self, engine: Engine, threads: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def cancel(self, request: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Forgets a request: it ends within a step, and nothing more is told about it.
        """
    def collect(self) -> list[BatchEvent]:
        """
        What has happened since the last call, in order.
        """
    def stop(self) -> None:
        """
        Ends the threads within a step; what is not done is lost.
        """
    def submit(self, sources: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]], options: DecodingOptions, prefixes: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]] = [], tells_tokens: bool = False) -> int:
        """
        Queues a request and returns its number. The options' control is not used.
        """
    @property
    def descriptor(self) -> int:
        """
        A file descriptor, readable while there is something to collect.
        """
    @property
    def stats(self) -> BatchStats:
        ...
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
