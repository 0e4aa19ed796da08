"""Checkpoints of other programs, read without running anything that is in them.

A torch checkpoint is a pickle, and a pickle may name any function to be called. torch's `weights_only`
reader calls none but its own; besides tensors and plain values it is given here one harmless stand-in,
`Inert`, for the classes by which fairseq keeps its options and meters. Whatever else a file names is
refused, by that name.
"""

from __future__ import annotations

import argparse
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from kserve.errors import InputError

# What these names stand for holds options, counters and times; its state is kept, its code never run.
_STAND_IN = re.compile(
    r"(fairseq|omegaconf|fairseq_cli)\..*|typing\.(Any|Union|Optional|List|Dict|Tuple)|pathlib\.\w+|"
    r"numpy\.(dtype|core\.multiarray\.scalar|_core\.multiarray\.scalar)|_codecs\.encode"
)
_PLAIN_TYPES = (int, float, str, bool, bytes, list, tuple, dict)  # a defaultdict names one
_NAME = re.compile(r"GLOBAL ([\w.]+)")
_MOST_STAND_INS = 200


class ConvertError(InputError):
    """The model cannot be converted; the message says what stands in the way."""


class Inert:
    """In place of an object whose class is not loaded: it keeps the state that was saved with it."""

    def __init__(self, *_: object, **named: object) -> None:
        self.state: Any = named

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _empty(*_factory: object) -> dict[Any, Any]:
    """In place of a defaultdict."""
    return {}


def read_foreign_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary of a torch checkpoint, tensors on the CPU.

    Raises:
        ConvertError: the file is missing or no checkpoint, or names what it must not.
    """
    stand_ins: list[Any] = [argparse.Namespace, (_empty, "collections.defaultdict")]
    while True:
        try:
            with torch.serialization.safe_globals(stand_ins):
                state = torch.load(path, map_location="cpu", weights_only=True)
            break
        except FileNotFoundError:
            raise ConvertError(f"no checkpoint at {path}") from None
        except pickle.UnpicklingError as error:
            stand_ins.append(_stand_in(path, error, len(stand_ins)))
        except (RuntimeError, EOFError, OSError, ValueError, AttributeError, TypeError) as error:
            raise ConvertError(
                f"{path} is no readable torch checkpoint ({type(error).__name__}: {_first_line(error)})"
            ) from None
    if not isinstance(state, dict):
        raise ConvertError(f"{path} holds a {type(state).__name__}; expected a checkpoint's dictionary")
    return state


def _stand_in(path: Path, error: pickle.UnpicklingError, tried: int) -> tuple[type, str]:
    """What takes the place of the class that the reader missed, and its full name; refused if it must not."""
    match = _NAME.search(str(error))
    if match is None:
        raise ConvertError(f"{path} is no readable torch checkpoint ({_first_line(error)})") from None
    name = match.group(1)
    for plain_type in _PLAIN_TYPES:
        if name == plain_type.__name__:  # torch's message leaves "builtins." out
            return plain_type, f"builtins.{name}"
    if not _STAND_IN.fullmatch(name) or tried > _MOST_STAND_INS:
        raise ConvertError(
            f"{path} wants to use {name}, which options and weights need not; it is not loaded, because a "
            "checkpoint that names other code may run it. Save the model's state and options alone"
        ) from None
    return Inert, name


def plain(value: Any) -> Any:
    """Options as dictionaries, lists and values, from a namespace or from omegaconf's nodes."""
    if isinstance(value, argparse.Namespace):
        return plain(vars(value))
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, dict) else {}
        if "_content" in state:
            return plain(state["_content"])
        return plain(state["_val"]) if "_val" in state else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _first_line(error: Exception) -> str:
    """The part of torch's message that says what is wrong."""
    return str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
