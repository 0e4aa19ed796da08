"""The `kserve` command in the test's own process: capsys has what it prints, and nothing is loaded anew."""

from __future__ import annotations

import pytest

from kserve.cli import main


def exit_code(*arguments: str) -> int:
    """Run `kserve` with these arguments; the code that its process would have ended with."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    code = end.value.code
    assert isinstance(code, int), f"kserve {' '.join(arguments)} ended with {code!r}, which is no exit code"
    return code
