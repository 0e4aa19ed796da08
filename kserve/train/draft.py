"""A bundle before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kserve.architecture import count_parameters, parse_architecture
from kserve.bundle import write_bundle
from kserve.train.card import CardFacts, model_card


@dataclass(frozen=True)
class Draft:
    """What a bundle is made of; the card follows from it."""

    config: Mapping[str, Any]  # config.json but for what `write_bundle` fills in
    tensors: Mapping[str, NDArray[Any]]
    tokenizer: bytes

    def write(self, path: Path) -> None:
        """Write the bundle, with its card."""
        card = model_card(
            CardFacts(
                config=self.config,
                parameters=count_parameters(parse_architecture(self.config["architecture"])),
                model_bytes=sum(array.nbytes for array in self.tensors.values()),
            )
        )
        write_bundle(path, self.config, self.tensors, self.tokenizer, card)
