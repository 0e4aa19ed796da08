"""
The clock around kernels, for benchmarks.
"""
from __future__ import annotations
import collections.abc
import kserve._engine.kernels
import numpy
import numpy.typing
import typing
__all__: list[str] = ['dense', 'kmatrix', 'multiply_adds_per_second', 'read']
def dense(kernels: kserve._engine.kernels.Kernels, layers: collections.abc.Sequence[kserve._engine.kernels.DenseLayer], x: numpy.typing.NDArray[numpy.float32], calls: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many products, going through the layers in turn.
    """
def kmatrix(kernels: kserve._engine.kernels.Kernels, layer: kserve._engine.kernels.KMatrixLayer, words: numpy.typing.NDArray[numpy.uint32], x: numpy.typing.NDArray[numpy.float32], calls: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many products, going through the copies of the words in turn.
    """
def multiply_adds_per_second(kernels: kserve._engine.kernels.Kernels, rounds: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    The most multiply-adds of single numbers a second.
    """
def read(kernels: kserve._engine.kernels.Kernels, numbers: numpy.typing.NDArray[numpy.float32], passes: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Seconds of so many sums over all the numbers.
    """
