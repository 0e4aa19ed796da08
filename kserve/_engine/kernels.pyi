"""
The raw kernels, for tests and benchmarks.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['DenseLayer', 'KMatrixLayer', 'Kernels', 'LinearExtras', 'Vocabulary', 'available', 'choose']
class KMatrixLayer:
    """
    Sizes of a K-matrix layer and of its grid of squares.
    """
    def __init__(self, inputs: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, width: typing.SupportsInt | typing.SupportsIndex = 1, expansion: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    @property
    def grid_cols(self) -> int:
        ...
    @property
    def grid_rows(self) -> int:
        ...
    @property
    def inner(self) -> int:
        ...
    @property
    def inputs(self) -> int:
        ...
    @property
    def outputs(self) -> int:
        ...
    @property
    def tile(self) -> int:
        ...
    @property
    def width(self) -> int:
        ...
    @property
    def words_per_square(self) -> int:
        ...
class DenseLayer:
    """
    A dense layer in panels: uint16 (IEEE half), float32, or int8 with scales.
    """
    def __init__(self, inputs: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, weights: numpy.ndarray, scale: numpy.typing.NDArray[numpy.float32] | None = None) -> None:
        ...
    @property
    def inputs(self) -> int:
        ...
    @property
    def outputs(self) -> int:
        ...
    @property
    def weights(self) -> numpy.ndarray:
        ...
class LinearExtras:
    """
    y = relu(W x + bias) + residual, x normalised first; each part optional.
    """
    def __init__(self, bias: numpy.typing.NDArray[numpy.float32] | None = None, relu: bool = False, residual: numpy.typing.NDArray[numpy.float32] | None = None, normalise: bool = False) -> None:
        ...
class Kernels:
    """
    The kernels of one instruction set.
    """
    def attention(self, queries: numpy.typing.NDArray[numpy.float32], keys: numpy.typing.NDArray[numpy.uint16], values: numpy.typing.NDArray[numpy.uint16], heads: typing.SupportsInt | typing.SupportsIndex) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]:
        ...
    def dense(self, layer: DenseLayer, x: numpy.typing.NDArray[numpy.float32], extras: LinearExtras = ...) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def dynconv(self, window: numpy.typing.NDArray[numpy.float32], present: collections.abc.Sequence[bool], weights: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def dynconv_half(self, window: numpy.typing.NDArray[numpy.uint16], present: collections.abc.Sequence[bool], weights: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def embed(self, row: numpy.typing.NDArray[numpy.int8], scale: typing.SupportsFloat | typing.SupportsIndex, position: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def glu(self, u: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def kmatrix(self, layer: KMatrixLayer, words: numpy.typing.NDArray[numpy.uint32], x: numpy.typing.NDArray[numpy.float32], extras: LinearExtras = ...) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def layer_norm(self, x: numpy.typing.NDArray[numpy.float32], gain: numpy.typing.NDArray[numpy.float32] | None = None, bias: numpy.typing.NDArray[numpy.float32] | None = None) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def narrow(self, x: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.uint16]:
        ...
    def rank_tokens(self, vocabulary: Vocabulary, h: numpy.typing.NDArray[numpy.float32], count: typing.SupportsInt | typing.SupportsIndex, barred: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = []) -> tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]:
        """
        Best ids (-1: none left) and their logits, both (rows, count), and the log-sum-exp (rows).
        """
    def softmax(self, x: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def token_logits(self, vocabulary: Vocabulary, h: numpy.typing.NDArray[numpy.float32]) -> numpy.typing.NDArray[numpy.float32]:
        """
        The exact logits (rows, tokens), one by one.
        """
    @property
    def name(self) -> str:
        ...
class Vocabulary:
    """
    The output layer: an int8 table by rows (tokens, n), the same in panels (panels, groups, 16, 4), and a scale per token.
    """
    def __init__(self, rows: numpy.typing.NDArray[numpy.int8], panels: numpy.typing.NDArray[numpy.int8], scale: numpy.typing.NDArray[numpy.float32]) -> None:
        ...
def available() -> list[str]:
    """
    Names of the instruction sets this machine can run, best first.
    """
def choose(forced: str = '') -> Kernels:
    """
    The best kernels, or those of the instruction set named.
    """
