"""What is sent, and what must come back: the right sentences, as they are translated offline."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.record import REFUSALS

SOURCE, TARGET = "de", "en"
ARRAY = 25  # sentences
LINES = 40  # sentences of a file
SHARES = {"single": 0.8, "array": 0.15, "file": 0.05}  # of mixed traffic
KINDS = (*SHARES, "mixed")
_BOUNDARY = "kserve-load"
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}


@dataclass(frozen=True)
class Sent:
    """A request, and the texts that must be in the answer, in order.

    An empty one stands for any: the rival's translations depend on what is translated beside them.
    """

    kind: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    expected: Sequence[str]

    def judge(self, status: int, body: bytes, retry_after: str | None) -> str | None:
        """What is wrong with an answer, or None; a refusal is right if it says when to ask again."""
        if status == 200:
            return self.fault(body)
        if status in REFUSALS:
            return None if retry_after else f"{status} without Retry-After"
        return f"status {status}: {body[:80]!r}"

    def fault(self, body: bytes) -> str | None:
        """What is wrong with the body of a 200, or None."""
        if self.kind == "file":
            found: object = body.decode("utf-8", "replace").splitlines()
        else:
            try:
                found = json.loads(body)["translatedText"]
            except (ValueError, KeyError, TypeError):
                return f"no translation in {body[:100]!r}"
            found = [found] if self.kind == "single" else found
        if not isinstance(found, list) or len(found) != len(self.expected):
            return f"expected {len(self.expected)} translations, got {str(found)[:200]!r}"
        if all(one == (wanted or one) for one, wanted in zip(found, self.expected, strict=True)):
            return None
        if sorted(found) == sorted(self.expected):
            return "the right sentences in the wrong order"
        return f"got {str(found)[:200]!r}, offline it is {str(self.expected)[:200]!r}"


class Traffic:
    """Requests of one kind or mixed, from sentences with their translations."""

    def __init__(self, expected: Mapping[str, str], kind: str, seed: int, array: int = ARRAY) -> None:
        self._expected = expected
        self._texts = list(expected)
        self._kind, self._array = kind, array
        self._random = random.Random(seed)

    def next(self) -> Sent:
        """The next request."""
        kind = self._kind
        if kind == "mixed":
            kind = self._random.choices(list(SHARES), list(SHARES.values()))[0]
        count = {"single": 1, "array": self._array, "file": LINES}[kind]
        texts = self._random.sample(self._texts, count)
        expected = [self._expected[text] for text in texts]
        if kind == "file":
            return Sent(kind, "/v1/files", _form("\n".join(texts)), _FORM, expected)
        body = {"q": texts[0] if kind == "single" else texts, "source": SOURCE, "target": TARGET}
        return Sent(kind, "/translate", json.dumps(body).encode(), _JSON, expected)


def read_expected(path: Path) -> dict[str, str]:
    """Sentences and their translations, from a JSON file."""
    found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _form(text: str) -> bytes:
    parts = {
        'name="source"': SOURCE,
        'name="target"': TARGET,
        'name="file"; filename="lines.txt"\r\nContent-Type: text/plain': text,
    }
    blocks = [
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n"
        for head, body in parts.items()
    ]
    return "".join([*blocks, f"--{_BOUNDARY}--\r\n"]).encode()
