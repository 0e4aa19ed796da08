"""Dense weights of K-matrices on a CUDA device by two recorded graphs, forward and backward.

Growing the matrices (factors.materialize) is the same work on the same memory in every training step: some
hundred small kernels each way, whose launches take longer than they run. Recorded as CUDA graphs they are
two launches a step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Grow = Callable[[Sequence[Tensor]], list[Tensor]]  # the dense weights of these twiddles
_WARM_UP = 3  # calls before recording, in which libraries take their memory


class _Use:
    """That the weights of one replay may still be needed by a backward pass."""

    is_over = False


class RecordedGrowth:
    """The dense weights of some twiddles, recorded once and replayed into the same memory.

    Args:
        twiddles: On one CUDA device; they are read where they lie now, whatever is written there later.
        dtype: Of the weights that `grow` makes; nothing but a name for it.
        grow: Makes the weights; recorded.
    """

    def __init__(self, twiddles: Sequence[Tensor], dtype: torch.dtype | None, grow: Grow) -> None:
        self._made_for = _places(twiddles), dtype
        self._shapes = [twiddle.shape for twiddle in twiddles]
        self._use: Callable[[], _Use | None] = lambda: None  # of the last replay, while it is held
        self._forward, self._backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # Leaves of their own: autograd would wait for the stream on which the parameters were made.
            sources = [twiddle.detach().requires_grad_() for twiddle in twiddles]
            for _ in range(_WARM_UP):
                weights = grow(sources)
                self._wanted = [torch.zeros_like(weight) for weight in weights]
                torch.autograd.grad(weights, sources, self._wanted)
            del weights
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._forward, stream=stream):
            self._weights = grow(sources)
        with torch.cuda.graph(self._backward, pool=self._forward.pool(), stream=stream):
            gradients = torch.autograd.grad(self._weights, sources, self._wanted)
            self._gradients = torch.cat([gradient.flatten() for gradient in gradients])

    def was_made_for(self, twiddles: Sequence[Tensor], dtype: torch.dtype | None) -> bool:
        """Whether these lie where those lay that it was recorded for, and the weights are of that type."""
        return self._made_for == (_places(twiddles), dtype)

    def is_free(self) -> bool:
        """Whether no backward pass needs what its memory holds."""
        use = self._use()
        return use is None or use.is_over

    def forward(self) -> tuple[list[Tensor], _Use]:
        """The dense weights, good until the next call; and what tells this object that they are needed."""
        self._forward.replay()
        torch.autograd.graph.increment_version(self._weights)  # or a late backward pass would go unnoticed
        use = _Use()
        self._use = weakref.ref(use)
        return [weight.detach() for weight in self._weights], use

    def backward(self, wanted: Sequence[Tensor]) -> list[Tensor]:
        """The gradients of the twiddles from those of the weights."""
        torch._foreach_copy_(self._wanted, list(wanted))
        self._backward.replay()
        parts = self._gradients.clone().split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]


class _Growth(torch.autograd.Function):
    """Dense weights from twiddles, by a RecordedGrowth."""

    @staticmethod
    def forward(ctx: Any, recorded: RecordedGrowth, *_: Tensor) -> tuple[Tensor, ...]:
        weights, ctx.use = recorded.forward()
        ctx.recorded = recorded
        return tuple(weights)

    @staticmethod
    def backward(ctx: Any, *wanted: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.recorded.backward(wanted)
        ctx.use.is_over = True
        return (None, *gradients)


_RECORDED: weakref.WeakKeyDictionary[nn.Module, RecordedGrowth] = weakref.WeakKeyDictionary()


def recorded_weights(
    module: nn.Module, twiddles: Sequence[Tensor], dtype: torch.dtype | None, grow: Grow
) -> list[Tensor]:
    """`grow(twiddles)`, differentiable; by graphs that belong to the module where they can serve.

    They cannot on another device than CUDA, without gradients, within somebody's own recording, and for a
    second forward pass before the backward pass of the first.

    Args:
        module: Whose twiddles these are, all of them.
        twiddles: Its parameters.
        dtype: Of the weights.
        grow: Makes the weights from them; the same for the same module and type.
    """
    if not _recordable(twiddles):
        return grow(twiddles)
    recorded = _RECORDED.get(module)
    if recorded is None or not recorded.was_made_for(twiddles, dtype):
        with torch.cuda.device(twiddles[0].device):
            recorded = _RECORDED[module] = RecordedGrowth(twiddles, dtype, grow)
    if not recorded.is_free():
        return grow(twiddles)
    return list(_Growth.apply(recorded, *twiddles))


def _recordable(twiddles: Sequence[Tensor]) -> bool:
    return (
        torch.is_grad_enabled()
        and bool(twiddles)
        and twiddles[0].is_cuda
        and all(one.requires_grad and one.device == twiddles[0].device for one in twiddles)
        and not torch.cuda.is_current_stream_capturing()
        and not torch.compiler.is_compiling()
    )


def _places(twiddles: Sequence[Tensor]) -> list[tuple[int, torch.dtype]]:
    return [(twiddle.data_ptr(), twiddle.dtype) for twiddle in twiddles]
