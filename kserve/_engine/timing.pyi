"""
The clock around kernels, for benchmarks.
"""
from __future__ import annotations
import collections.abc
import kserve._engine.kernels
import numpy
import numpy.typing
import typing
__all__: list[str] = ['dense', 'kmatrix', 'read', 'seconds_a_word']
def dense(kernels: kserve._engine.kernels.Kernels, layers: collections.abc.Sequence[kserve._engine.kernels.DenseLayer], x: numpy.typing.NDArray[numpy.float32], calls: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many products, going through the layers in turn.
    """
def kmatrix(kernels: kserve._engine.kernels.Kernels, layer: kserve._engine.kernels.KMatrixLayer, words: numpy.typing.NDArray[numpy.uint32], x: numpy.typing.NDArray[numpy.float32], calls: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many products, going through the copies of the words in turn.
    """
def read(kernels: kserve._engine.kernels.Kernels, numbers: numpy.typing.NDArray[numpy.float32], places: typing.SupportsInt | typing.SupportsIndex, passes: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many sums over all the numbers, read at 1, 2 or 4 places.
    """
def seconds_a_word(kernels: kserve._engine.kernels.Kernels, work: str, rounds: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Of two multiply-adds with a word of weights for each of 16 lanes, in registers. work: what is done besides: nothing, widening or exchanging (lanes, before each multiply-add).
    """
