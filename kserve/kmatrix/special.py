"""Known transforms written exactly as K-matrices: identity, Hadamard, any permutation, Fourier, circulant.

Each function returns a twiddle `(1, 2 * width, log2 n, n / 2, 2, 2)` in float64, to test with, or to start a
layer from (`layer.twiddle.copy_(special.hadamard(512))`). Composition is concatenation of blocks: `compose`.

Identity, Hadamard and every permutation have width 1. Twiddles are real, so a transform of n complex numbers
is a K-matrix of 2 n reals, real and imaginary parts side by side; a complex rotation is then a factor of
stride 1, each of the log2 n steps of the Fourier transform needs its own, and the width is log2 n + 1.
`circulant` (Fourier, pointwise product, inverse Fourier) has the width that follows. They are exact, not
economical.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def identity(size: int) -> Tensor:
    """The identity of a power of two >= 2, width 1."""
    if size < 2 or size & (size - 1):
        raise ValueError(f"size must be a power of two and at least 2, got {size}")
    log_size = size.bit_length() - 1
    return torch.eye(2, dtype=torch.float64).repeat(1, 2, log_size, size // 2, 1, 1)


def hadamard(size: int) -> Tensor:
    """Sylvester's Hadamard matrix, entry `(i, j)` is `(-1) ** popcount(i & j)`, not normalised; width 1."""
    twiddle = identity(size)
    twiddle[0, 1] = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    return twiddle


def compose(*twiddles: Tensor) -> Tensor:
    """The product of K-matrices of one size, the first one applied first; widths add up."""
    shapes = {(twiddle.shape[0], *twiddle.shape[2:]) for twiddle in twiddles}
    if len(shapes) != 1:
        raise ValueError(f"composed K-matrices must have equal stacks and sizes, got {sorted(shapes)}")
    return torch.cat(twiddles, dim=1)


def permutation(sources: Sequence[int]) -> Tensor:
    """The permutation `y[i] = x[sources[i]]` of a power of two numbers, width 1.

    B B* has the strides of a Benes network (n/2 ... 1, 1 ... n/2), which routes every permutation; the
    switches come from its looping algorithm. One of the two middle factors of stride 1 stays the identity.
    """
    if sorted(sources) != list(range(len(sources))):
        raise ValueError(f"sources must hold each of 0 ... {len(sources) - 1} once")
    twiddle = identity(len(sources))
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)

    def route(sources: Sequence[int], start: int) -> None:
        """Set the switches of the sub-network over `len(sources)` numbers from `start` on."""
        half = len(sources) // 2
        level, first_pair = half.bit_length() - 1, start // 2
        if half == 1:
            if sources[0] == 1:
                twiddle[0, 1, level, first_pair] = swap
            return
        side, entering = _sides(sources)
        inside: tuple[list[int], list[int]] = ([], [])
        for pair in range(half):
            if entering[pair]:
                twiddle[0, 0, level, first_pair + pair] = swap
            if side[pair]:
                twiddle[0, 1, level, first_pair + pair] = swap
            for output in sorted((pair, pair + half), key=lambda index: side[index]):
                inside[side[output]].append(sources[output] % half)
        route(inside[0], start)
        route(inside[1], start + half)

    route(sources, 0)
    return twiddle


def fourier(size: int, inverse: bool = False) -> Tensor:
    """The Fourier transform of n = `size` complex numbers as a K-matrix of 2 n reals, width log2 n + 1.

    Input and output are real, imaginary, real, imaginary ... (`torch.view_as_real`). Forward it is
    torch.fft.fft, inverse it is torch.fft.ifft.
    """
    log_size = size.bit_length() - 1
    reversed_bits = [int(f"{index:0{log_size}b}"[::-1], 2) if log_size else 0 for index in range(size)]
    steps = [permutation([2 * index + part for index in reversed_bits for part in (0, 1)])]
    sign = 2j if inverse else -2j
    for level in range(log_size):
        stride = 1 << level
        index = torch.arange(size)
        turn = torch.exp(sign * torch.pi * (index % stride).double() / (2 * stride))
        step = pointwise(torch.where(index & stride > 0, turn, torch.ones_like(turn)))
        step[0, 1, level + 1] = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
        steps.append(step)
    if inverse:
        steps.append(pointwise(torch.full((size,), 1.0 / size, dtype=torch.complex128)))
    return compose(*steps)


def pointwise(factors: Tensor) -> Tensor:
    """Multiplication of n complex numbers by n complex factors, as a K-matrix of 2 n reals of width 1."""
    factors = factors.to(torch.complex128)
    twiddle = identity(2 * len(factors))
    columns = (torch.stack((factors.real, factors.imag), -1), torch.stack((-factors.imag, factors.real), -1))
    twiddle[0, 0, 0] = torch.stack(columns, -1)
    return twiddle


def circulant(column: Tensor) -> Tensor:
    """Circular convolution of n complex numbers with `column` (n), as a K-matrix of 2 n reals.

    The dense matrix on complex numbers has entry `(i, j)` equal to `column[(i - j) % n]`.
    """
    spectrum = torch.fft.fft(column.to(torch.complex128))
    return compose(fourier(len(column)), pointwise(spectrum), fourier(len(column), inverse=True))


def _sides(sources: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which half of a Benes network each output comes through, and each input goes through (0 or 1).

    The two members of a pair, i and i + n/2, must go through different halves, at the output and at the
    input: walking from pair to pair closes loops of even length, so two colours always suffice.
    """
    half = len(sources) // 2
    output_of = {source: output for output, source in enumerate(sources)}
    side = [-1] * len(sources)
    for first in range(half):
        output = first
        while side[output] < 0:
            partner = output ^ half
            side[output], side[partner] = 0, 1
            output = output_of[sources[partner] ^ half]
    return side, [side[output_of[source]] for source in range(len(sources))]
