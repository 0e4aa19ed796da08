"""The public names, and one answer for every error."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kserve
from kserve import errors

PACKAGE = Path(kserve.__file__).parent


def test_public_names() -> None:
    assert kserve.__all__ == [
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
    assert kserve.__all__ == sorted(kserve.__all__) == dir(kserve)
    assert all(getattr(kserve, name) is not None for name in kserve.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'translate'"):
        kserve.translate  # noqa: B018


def test_every_error_has_an_answer() -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(ours) > 15
    for kind in ours:
        assert kind in errors.ANSWERS, f"{kind.__name__} is not in the table"
        assert errors.answer_for(kind("x")) == errors.ANSWERS[kind]
    codes = [answer.code for answer in errors.ANSWERS.values()]
    assert len(set(codes)) == len(codes)


def test_a_subclass_is_answered_like_its_base_and_strangers_are_internal() -> None:
    class Special(errors.TextTooLong):
        pass

    assert errors.answer_for(Special("x")).code == "text_too_long"
    assert errors.answer_for(KeyError("x")) == errors.INTERNAL


def test_bad_input_is_also_a_value_error() -> None:
    assert issubclass(kserve.BundleError, ValueError)
    assert issubclass(kserve.InputError, ValueError)


def test_only_config_reads_the_environment() -> None:
    readers = []
    for file in PACKAGE.rglob("*.py"):
        names = {
            node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)
        }
        if names & {"environ", "getenv"}:
            readers.append(file.name)
    assert readers in ([], ["config.py"])
