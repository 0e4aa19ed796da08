"""
The kernels of training; arrays of uint16 hold bfloat16.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
__all__: list[str] = ['Kernels']
class Kernels:
    """
    An instruction set and a number of threads.
    """
    def __init__(self, isa: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    @typing.overload
    def add_norm(self, inputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], dropout: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex], norm: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], float], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        inputs (x, y), norm (gain, bias, epsilon), outputs (sum, out, moments): sum = x + dropout(y), out its layer norm. An empty y adds nothing, and sum is empty too.
        """
    @typing.overload
    def add_norm(self, inputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16]], dropout: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex], norm: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], float], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        inputs (x, y), norm (gain, bias, epsilon), outputs (sum, out, moments): sum = x + dropout(y), out its layer norm. An empty y adds nothing, and sum is empty too.
        """
    @typing.overload
    def add_norm_backward(self, saved: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], dropout: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex], grads: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        saved (sum, moments, gain), grads (of out, of sum or empty), outputs: gradients of x, y (or empty), gain and bias.
        """
    @typing.overload
    def add_norm_backward(self, saved: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], dropout: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex], grads: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        saved (sum, moments, gain), grads (of out, of sum or empty), outputs: gradients of x, y (or empty), gain and bias.
        """
    @typing.overload
    def add_rows(self, x: numpy.typing.NDArray[numpy.float32], sums: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        sums (columns) = the sum of the rows of x.
        """
    @typing.overload
    def add_rows(self, x: numpy.typing.NDArray[numpy.uint16], sums: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        sums (columns) = the sum of the rows of x.
        """
    @typing.overload
    def attention(self, offsets: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int64]], heads: typing.SupportsInt | typing.SupportsIndex, inputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        offsets (of targets, of sources, of shares), inputs (query, key, value), outputs (shares, y): each target sentence over its source sentence.
        """
    @typing.overload
    def attention(self, offsets: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int64]], heads: typing.SupportsInt | typing.SupportsIndex, inputs: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16]]) -> None:
        """
        offsets (of targets, of sources, of shares), inputs (query, key, value), outputs (shares, y): each target sentence over its source sentence.
        """
    @typing.overload
    def attention_backward(self, offsets: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int64]], heads: typing.SupportsInt | typing.SupportsIndex, inputs: tuple[tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        inputs ((query, key, value), shares, gradient of y), outputs: gradients of query, key and value.
        """
    @typing.overload
    def attention_backward(self, offsets: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int64]], heads: typing.SupportsInt | typing.SupportsIndex, inputs: tuple[tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16]], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16]], outputs: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16]]) -> None:
        """
        inputs ((query, key, value), shares, gradient of y), outputs: gradients of query, key and value.
        """
    @typing.overload
    def convolution(self, offsets: numpy.typing.NDArray[numpy.int32], window: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], inputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        window (heads, taps, left), inputs (x, scores), outputs (shares, y): dynamic convolution within each sentence.
        """
    @typing.overload
    def convolution(self, offsets: numpy.typing.NDArray[numpy.int32], window: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], inputs: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16]]) -> None:
        """
        window (heads, taps, left), inputs (x, scores), outputs (shares, y): dynamic convolution within each sentence.
        """
    @typing.overload
    def convolution_backward(self, offsets: numpy.typing.NDArray[numpy.int32], window: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], inputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], outputs: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        inputs (x, shares, gradient of y), outputs: gradients of x and scores.
        """
    @typing.overload
    def convolution_backward(self, offsets: numpy.typing.NDArray[numpy.int32], window: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex], inputs: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.uint16]], outputs: tuple[numpy.typing.NDArray[numpy.uint16], numpy.typing.NDArray[numpy.uint16]]) -> None:
        """
        inputs (x, shares, gradient of y), outputs: gradients of x and scores.
        """
    def embed(self, tables: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], places: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32]], scale_dropout: tuple[typing.SupportsFloat | typing.SupportsIndex, tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], x: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        x (rows, d) = dropout(table[ids] * scale + positions[places]).
        """
    def embed_backward(self, tables: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]], places: tuple[numpy.typing.NDArray[numpy.int32], numpy.typing.NDArray[numpy.int32]], scale_dropout: tuple[typing.SupportsFloat | typing.SupportsIndex, tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsFloat | typing.SupportsIndex]], grads: tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        grads (of x, of the table): the second is added to.
        """
    @typing.overload
    def glu(self, u: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        y (rows, d) = u[:, :d] * sigmoid(u[:, d:]).
        """
    @typing.overload
    def glu(self, u: numpy.typing.NDArray[numpy.uint16], y: numpy.typing.NDArray[numpy.uint16]) -> None:
        """
        y (rows, d) = u[:, :d] * sigmoid(u[:, d:]).
        """
    @typing.overload
    def glu_backward(self, u: numpy.typing.NDArray[numpy.float32], grad_y: numpy.typing.NDArray[numpy.float32], grad_u: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        The gradient of u.
        """
    @typing.overload
    def glu_backward(self, u: numpy.typing.NDArray[numpy.uint16], grad_y: numpy.typing.NDArray[numpy.uint16], grad_u: numpy.typing.NDArray[numpy.uint16]) -> None:
        """
        The gradient of u.
        """
    @typing.overload
    def grow(self, twiddles: list[numpy.typing.NDArray[numpy.float32]], matrices: list[numpy.typing.NDArray[numpy.float32]], tiles: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        """
        Multiplies K-matrices of width 1 out, into the layers' matrices (out, in) in tiles; with tile 0 every pair of any width by itself, (stacks * width * n, n).
        """
    @typing.overload
    def grow(self, twiddles: list[numpy.typing.NDArray[numpy.float32]], matrices: list[numpy.typing.NDArray[numpy.uint16]], tiles: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> None:
        """
        Multiplies K-matrices of width 1 out, into the layers' matrices (out, in) in tiles; with tile 0 every pair of any width by itself, (stacks * width * n, n).
        """
    @typing.overload
    def grow_backward(self, twiddles: list[numpy.typing.NDArray[numpy.float32]], grad_matrices: list[numpy.typing.NDArray[numpy.float32]], tiles: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_twiddles: list[numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        The twiddles' gradients from those of the matrices.
        """
    @typing.overload
    def grow_backward(self, twiddles: list[numpy.typing.NDArray[numpy.float32]], grad_matrices: list[numpy.typing.NDArray[numpy.uint16]], tiles: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], grad_twiddles: list[numpy.typing.NDArray[numpy.float32]]) -> None:
        """
        The twiddles' gradients from those of the matrices.
        """
    @typing.overload
    def loss(self, scores: numpy.typing.NDArray[numpy.float32], targets: numpy.typing.NDArray[numpy.int32], smoothing: typing.SupportsFloat | typing.SupportsIndex, weight: typing.SupportsFloat | typing.SupportsIndex) -> tuple[float, float]:
        """
        scores (rows, vocabulary) become the gradient of `weight` times the label-smoothed loss; a target below 0 counts for nothing. Returns the sums of the smoothed loss and of the negative log-likelihood.
        """
    @typing.overload
    def loss(self, scores: numpy.typing.NDArray[numpy.uint16], targets: numpy.typing.NDArray[numpy.int32], smoothing: typing.SupportsFloat | typing.SupportsIndex, weight: typing.SupportsFloat | typing.SupportsIndex) -> tuple[float, float]:
        """
        scores (rows, vocabulary) become the gradient of `weight` times the label-smoothed loss; a target below 0 counts for nothing. Returns the sums of the smoothed loss and of the negative log-likelihood.
        """
    @typing.overload
    def relu_backward(self, y: numpy.typing.NDArray[numpy.float32], grad_y: numpy.typing.NDArray[numpy.float32], grad_x: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        grad_x = grad_y where y is positive, else zero.
        """
    @typing.overload
    def relu_backward(self, y: numpy.typing.NDArray[numpy.uint16], grad_y: numpy.typing.NDArray[numpy.uint16], grad_x: numpy.typing.NDArray[numpy.uint16]) -> None:
        """
        grad_x = grad_y where y is positive, else zero.
        """
    @typing.overload
    def transpose(self, x: numpy.typing.NDArray[numpy.float32], y: numpy.typing.NDArray[numpy.float32]) -> None:
        """
        y (columns, rows) = x (rows, columns) transposed.
        """
    @typing.overload
    def transpose(self, x: numpy.typing.NDArray[numpy.uint16], y: numpy.typing.NDArray[numpy.uint16]) -> None:
        """
        y (columns, rows) = x (rows, columns) transposed.
        """
    @property
    def isa(self) -> str:
        """
        The instruction set that the kernels were compiled for.
        """
