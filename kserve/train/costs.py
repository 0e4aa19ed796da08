"""What linear layers cost: numbers to learn, and multiply-adds of a decoder step."""

from __future__ import annotations

import math

from kserve.architecture import DECODER_SITES, ENCODER_SITES, site_sizes
from kserve.kmatrix.layers import kmatrix_numbers
from kserve.train.spec import Architecture, LinearSpec


def linear_numbers(arch: Architecture) -> int:
    """Numbers of all linear layers but the biases."""
    layers = [
        (site, taps)
        for kernels, sites in ((arch.encoder_kernels, ENCODER_SITES), (arch.decoder_kernels, DECODER_SITES))
        for taps in kernels
        for site in sites
    ]
    return sum(_numbers(arch.linear[site], *site_sizes(arch, site, taps)) for site, taps in layers)


def decoder_multiply_adds(arch: Architecture) -> int:
    """Multiply-adds of the decoder's linear layers for a token; keys and values are made once a sentence."""
    sites = [site for site in DECODER_SITES if site not in ("key", "value")]
    return sum(
        _multiply_adds(arch.linear[site], *site_sizes(arch, site, taps))
        for taps in arch.decoder_kernels
        for site in sites
    )


def _numbers(spec: LinearSpec, inputs: int, outputs: int) -> int:
    layer = spec.make(inputs, outputs)
    return sum(parameter.numel() for name, parameter in layer.named_parameters() if name != "bias")


def _multiply_adds(spec: LinearSpec, inputs: int, outputs: int) -> int:
    """Each number of a K-matrix, dense or low-rank layer is used once a row.

    A circulant square of n takes a real Fourier transform and its inverse, 2.5 n log2 n operations each.
    """
    if spec.kind == "circulant":
        n = min(inputs, outputs)
        squares = -(-inputs // n) * -(-outputs // n)
        return squares * round(2.5 * n * math.log2(max(n, 2)))
    if spec.kind == "kmatrix":
        return kmatrix_numbers(inputs, outputs, spec.width, spec.expansion)
    return _numbers(spec, inputs, outputs)
