"""The sizes of a model, and how the linear layers of each site are made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor, nn

from kserve.architecture import SITES, site_sizes
from kserve.kmatrix import KLinear, linear
from kserve.kmatrix.layers import kmatrix_numbers
from kserve.kmatrix.rivals import CirculantLinear, LowRankLinear

RIVALS = ("lowrank", "circulant")
KINDS = ("kmatrix", "dense", *RIVALS)


class Dense(nn.Linear):
    """nn.Linear that computes in its input's type, with Xavier's uniform start."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class LinearSpec:
    """How the linear layers of one site are made: K-matrices, dense, or one of their rivals.

    `lowrank` has the rank that gives it as many numbers as the K-matrix of this width and expansion. Rivals
    have no form of their own in the engine: they are exported multiplied out.
    """

    kind: str = "kmatrix"
    width: int = 1
    expansion: int = 1

    def make(self, in_features: int, out_features: int) -> nn.Module:
        """Build the layer; raises ValueError for an unknown kind."""
        if self.kind == "kmatrix":
            return KLinear(in_features, out_features, width=self.width, expansion=self.expansion)
        if self.kind == "dense":
            return Dense(in_features, out_features)
        if self.kind == "lowrank":
            numbers = kmatrix_numbers(in_features, out_features, self.width, self.expansion)
            rank = max(1, round(numbers / (in_features + out_features)))
            return LowRankLinear(in_features, out_features, rank)
        if self.kind == "circulant":
            return CirculantLinear(in_features, out_features)
        raise ValueError(f"linear kind {self.kind!r} is unknown; expected one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Architecture:
    """Sizes of the model; `to_dict` gives the `architecture` entry of a bundle's config.json.

    The last three are for models of other programs (docs/design.md, "The model"); they are only written when
    they are not as here.
    """

    vocab_size: int
    d_model: int
    d_ffn: int
    heads: int
    encoder_kernels: tuple[int, ...]
    decoder_kernels: tuple[int, ...]
    linear: dict[str, LinearSpec]
    glu: bool = True
    max_positions: int = 512
    norm: str = "pre"
    position_offset: int = 0
    begin: str = "own"

    def __post_init__(self) -> None:
        if self.d_model % self.heads or self.d_model % 2:
            raise ValueError(f"d_model={self.d_model} must be even and divisible by heads={self.heads}")
        if any(k < 1 or k % 2 == 0 for k in self.encoder_kernels + self.decoder_kernels):
            raise ValueError("kernel sizes must be odd and positive")
        if self.norm not in ("pre", "post") or self.begin not in ("own", "end") or self.position_offset < 0:
            raise ValueError(
                f"norm {self.norm!r}, begin {self.begin!r}, position_offset {self.position_offset}; expected "
                "'pre' or 'post', 'own' or 'end', and a number from 0 on"
            )
        if set(self.linear) != set(SITES):
            raise ValueError(f"linear sites {sorted(self.linear)}; expected {sorted(SITES)}")

    def make(self, site: str, taps: int) -> nn.Module:
        """A new linear layer of that site."""
        return self.linear[site].make(*site_sizes(self, site, taps))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        plain = {name: getattr(self, name) for name in ("vocab_size", "d_model", "d_ffn", "heads")}
        linear = {
            site: {"kind": spec.kind, "width": spec.width, "expansion": spec.expansion}
            if spec.kind in ("kmatrix", "lowrank")
            else {"kind": spec.kind}
            for site, spec in self.linear.items()
        }
        foreign = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in ("norm", "position_offset", "begin")
            and getattr(self, field.name) != field.default
        }
        return {
            "type": "dynamicconv",
            **plain,
            "encoder_kernels": list(self.encoder_kernels),
            "decoder_kernels": list(self.decoder_kernels),
            "glu": self.glu,
            "max_positions": self.max_positions,
            "linear": linear,
            **foreign,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Architecture:
        """Inverse of to_dict; also from a bundle's config.json, whose shortlist torch does not have."""
        given = {key: value for key, value in data.items() if key not in ("type", "shortlist")}
        given["encoder_kernels"] = tuple(given["encoder_kernels"])
        given["decoder_kernels"] = tuple(given["decoder_kernels"])
        # A dense layer's precision is how a bundle stores it; in torch all is float32.
        given["linear"] = {
            site: LinearSpec(**{key: value for key, value in spec.items() if key != "precision"})
            for site, spec in given["linear"].items()
        }
        return cls(**given)
