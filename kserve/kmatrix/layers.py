"""KLinear: a linear layer whose weight is a grid of K-matrices, a drop-in for torch.nn.Linear."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from kserve.cuda.choice import Route
from kserve.kmatrix import cpu, cuda
from kserve.kmatrix.factors import Grid, materialize, multiply_grid, multiply_pairs, random_rotations
from kserve.kmatrix.graphs import recorded_weights


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) times weight (out, in) transposed, plus bias (out), in the type of x."""
    if bias is None or x.dim() != 2 or not cpu.usable(x) or not cpu.usable(bias):
        return functional.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))
    y: Tensor = cpu.Linear.apply(x, weight, bias)
    return y


def next_power_of_two(size: int) -> int:
    """Smallest power of two that is at least `size` (size >= 1)."""
    return 1 << (size - 1).bit_length()


def kmatrix_numbers(in_features: int, out_features: int, width: int = 1, expansion: int = 1) -> int:
    """Numbers of a KLinear's twiddles."""
    tile = max(2, next_power_of_two(min(in_features, out_features)))
    inner = tile * expansion
    squares = -(-out_features // tile) * -(-in_features // tile)
    return squares * width * 4 * inner * (inner.bit_length() - 1)


class KLinear(nn.Module):
    """y = x K^T + b, where K is a grid of K-matrices (docs/design.md, "K-matrices").

    Args:
        in_features: Size of the input, at least 1.
        out_features: Size of the output, at least 1.
        bias: Whether to add a bias.
        width: Number of butterfly pairs B B* multiplied together in each square.
        expansion: Power of two by which a square is larger than the part of the layer it serves.

    Raises:
        ValueError: a size is below 1, or the expansion is no power of two.

    Attributes:
        twiddle: (grid_rows * grid_cols, 2 * width, log2 inner, inner / 2, 2, 2).
        bias: (out_features,) or None.

    Example:
        >>> KLinear(512, 1024)(torch.zeros(3, 512)).shape
        torch.Size([3, 1024])
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, width: int = 1, expansion: int = 1
    ) -> None:
        super().__init__()
        if min(in_features, out_features, width, expansion) < 1:
            raise ValueError(
                f"KLinear sizes must be at least 1: in_features={in_features}, "
                f"out_features={out_features}, width={width}, expansion={expansion}"
            )
        if expansion & (expansion - 1):
            raise ValueError(f"expansion={expansion} is not a power of two")
        self.in_features, self.out_features = in_features, out_features
        self.width, self.expansion = width, expansion
        self.tile = max(2, next_power_of_two(min(in_features, out_features)))
        self.inner = self.tile * expansion
        self.grid_rows = -(-out_features // self.tile)
        self.grid_cols = -(-in_features // self.tile)
        log_inner = self.inner.bit_length() - 1
        stacks = self.grid_rows * self.grid_cols
        self.twiddle = nn.Parameter(torch.empty(stacks, 2 * width, log_inner, self.inner // 2, 2, 2))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None
        self._dense: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Rotations (each square orthogonal), shrunk so that the sum over a grid row keeps the variance."""
        with torch.no_grad():
            rotations = random_rotations(self.twiddle.shape[0], self.width, self.inner.bit_length() - 1)
            # Cutting an expanded square keeps 1/expansion of the energy of its output.
            gain = (self.expansion / self.grid_cols) ** 0.5
            factors = 2 * self.width * (self.inner.bit_length() - 1)
            self.twiddle.copy_(rotations * gain ** (1 / factors))
            if self.bias is not None:
                self.bias.zero_()

    def assemble(self, squares: Tensor) -> Tensor:
        """Lay the squares (stacks, inner, inner) out as the dense weight (out_features, in_features)."""
        cut = squares[:, : self.tile, : self.tile]
        if self.grid_rows * self.grid_cols > 1:
            cut = cut.view(self.grid_rows, self.grid_cols, self.tile, self.tile).transpose(1, 2)
        weight = cut.reshape(self.grid_rows * self.tile, self.grid_cols * self.tile)
        return weight[: self.out_features, : self.in_features]

    def to_dense(self) -> Tensor:
        """The dense weight, (out_features, in_features), differentiable."""
        return self.assemble(materialize(self.twiddle))

    def _by(self, route: Route, x: Tensor) -> Tensor:
        """Multiply x (rows, in_features)."""
        grid = Grid(self.tile, self.out_features)
        if route is Route.KERNEL:
            return cuda.multiply(x, self.twiddle, self.bias, grid)
        if route is Route.DENSE:
            return linear(x, self.to_dense(), self.bias)
        y = multiply_grid(x, self.twiddle.to(x.dtype), grid)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if x.shape[-1] != self.in_features:
            raise ValueError(f"KLinear got {x.shape[-1]} features; expected {self.in_features}")
        rows = x.numel() // self.in_features
        flat = x if x.dim() == 2 else x.reshape(rows, self.in_features)
        if self._dense is not None:
            y = linear(flat, self._dense, self.bias)
        elif x.dtype == torch.float32 and cpu.usable(x) and cpu.usable(self.twiddle):
            y = cpu.butterfly_layer(flat, self.twiddle, self.bias, self.tile, self.out_features)
        else:
            y = self._by(cuda.route(rows, flat.dtype, self.twiddle), flat)
        # A view would make what is done to it in place, such as a ReLU, cost copies in the backward pass.
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def prefers_kernel(self, rows: int | None, dtype: torch.dtype | None) -> bool:
        """Whether the CUDA kernel is faster for so many rows than a dense weight for them alone."""
        if rows is None or not self.twiddle.is_cuda:
            return False
        return cuda.route(rows, dtype or self.twiddle.dtype, self.twiddle) is Route.KERNEL

    def extra_repr(self) -> str:
        """Sizes and parameter count, with the dense layer's count beside it."""
        bias = 0 if self.bias is None else self.bias.numel()
        dense = self.in_features * self.out_features + bias
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, width={self.width}, expansion={self.expansion}, "
            f"parameters={self.twiddle.numel() + bias} (dense {dense})"
        )


@contextmanager
def materialized(
    module: nn.Module, dtype: torch.dtype | None = None, rows: int | None = None
) -> Iterator[None]:
    """Within the context every KLinear below `module` uses a dense weight built once, differentiably.

    All squares of one size and width go through one batched call: layer by layer, the many small products
    would cost more than the layers themselves.

    Args:
        module: What holds the layers.
        dtype: Of the dense weights; that of the twiddles when absent.
        rows: The most rows that a layer will multiply, if no dense weight is used twice: a layer whose CUDA
            kernel is faster for so few is left to it.
    """
    everything = [layer for layer in module.modules() if isinstance(layer, KLinear)]
    layers = [layer for layer in everything if not layer.prefers_kernel(rows, dtype)]

    def grow(twiddles: Sequence[Tensor]) -> list[Tensor]:
        return dense_weights(layers, twiddles, dtype)

    twiddles = [layer.twiddle for layer in layers]
    weights = recorded_weights(module, twiddles, dtype, grow) if layers == everything else grow(twiddles)
    try:
        for layer, weight in zip(layers, weights, strict=True):
            layer._dense = weight
        yield
    finally:
        for layer in layers:
            layer._dense = None


def dense_weights(
    layers: Sequence[KLinear], twiddles: Sequence[Tensor], dtype: torch.dtype | None = None
) -> list[Tensor]:
    """The dense weight of each layer, (out_features, in_features), differentiable, in a few batched calls.

    Args:
        layers: Whose sizes are meant.
        twiddles: Of each layer.
        dtype: Of the weights; that of the twiddles when absent.
    """
    if all(map(cpu.usable, twiddles)):
        return _grown_weights(layers, twiddles, dtype or torch.float32)
    by_shape: dict[torch.Size, list[int]] = defaultdict(list)
    for number, twiddle in enumerate(twiddles):
        by_shape[twiddle.shape[1:]].append(number)
    weights: dict[int, Tensor] = {}
    for group in by_shape.values():
        squares = materialize(torch.cat([twiddles[number] for number in group]), dtype)
        parts = squares.split_with_sizes([twiddles[number].shape[0] for number in group])
        weights |= {number: layers[number].assemble(part) for number, part in zip(group, parts, strict=True)}
    return [weights[number] for number in range(len(layers))]


def _grown_weights(layers: Sequence[KLinear], twiddles: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The same by the extension's kernel: layers of width 1 whole, others pair by pair and multiplied."""
    parts: list[Tensor] = []
    shapes: list[tuple[int, int, int]] = []
    for layer, twiddle in zip(layers, twiddles, strict=True):
        if layer.width == 1:
            parts.append(twiddle)
            shapes.append((layer.out_features, layer.in_features, layer.tile))
        else:
            parts += twiddle.split(2, dim=1)
            shapes += [(twiddle.shape[0] * layer.inner, layer.inner, 0)] * layer.width
    matrices = iter(cpu.Growth.apply(dtype, shapes, *parts) if layers else ())
    return [
        next(matrices)
        if layer.width == 1
        else layer.assemble(
            multiply_pairs([next(matrices).view(-1, layer.inner, layer.inner) for _ in range(layer.width)])
        )
        for layer in layers
    ]
