"""Other structured linear layers, to compare K-matrices with: low rank, and grids of circulant matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kserve.kmatrix.layers import linear


class LowRankLinear(nn.Module):
    """y = U V x + b with U (out, rank) and V (rank, in).

    Args:
        in_features: Size of the input.
        out_features: Size of the output.
        rank: Columns of U and rows of V, at least 1.
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        if min(in_features, out_features, rank) < 1:
            raise ValueError(f"sizes must be at least 1: {in_features} -> {rank} -> {out_features}")
        self.down = nn.Parameter(torch.randn(rank, in_features) * in_features**-0.5)
        self.up = nn.Parameter(torch.randn(out_features, rank) * rank**-0.5)
        self.bias = nn.Parameter(torch.zeros(out_features))

    def to_dense(self) -> Tensor:
        """The dense weight, (out_features, in_features), differentiable."""
        return self.up @ self.down

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return linear(linear(x, self.down, None), self.up, self.bias)


class CirculantLinear(nn.Module):
    """y = C x + b, C a grid of circulant squares of the smaller size, n numbers each.

    A circulant square costs two Fourier transforms, about as much as a K-matrix of width 1; here it is
    multiplied out, as K-matrices are in training.
    """

    index: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.tile = min(in_features, out_features)
        rows, columns = -(-out_features // self.tile), -(-in_features // self.tile)
        scale = (self.tile * columns) ** -0.5
        self.columns = nn.Parameter(torch.randn(rows, columns, self.tile) * scale)
        self.bias = nn.Parameter(torch.zeros(out_features))
        places = torch.arange(self.tile)
        self.register_buffer("index", (places[:, None] - places) % self.tile, persistent=False)

    def to_dense(self) -> Tensor:
        """The dense weight, (out_features, in_features), differentiable."""
        squares = self.columns[:, :, self.index]  # (rows, columns, tile, tile)
        weight = squares.transpose(1, 2).flatten(2).flatten(0, 1)
        return weight[: self.out_features, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return linear(x, self.to_dense(), self.bias)
