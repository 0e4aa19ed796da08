"""CPU inference serving for machine translation with K-matrix DynamicConv models.

    from kserve import Translator

    Translator().translate("Ein Hund rennt.").text

Importing the package is cheap: the engine is loaded with the first name that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kserve.errors import BundleError, Cancelled, InputError, KserveError
from kserve.results import Hypothesis, TokenHypothesis, Translation

if TYPE_CHECKING:
    from kserve._engine import CancelToken
    from kserve.translator import Translator

__version__ = "0.1.0"

__all__ = [
    "BundleError",
    "CancelToken",
    "Cancelled",
    "Hypothesis",
    "InputError",
    "KserveError",
    "TokenHypothesis",
    "Translation",
    "Translator",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Translator":
        from kserve.translator import Translator

        return Translator
    if name == "CancelToken":
        from kserve._engine import CancelToken

        return CancelToken
    raise AttributeError(f"module 'kserve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
