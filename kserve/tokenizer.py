"""Text to SentencePiece ids and back. No batching, no splitting of long lines.

What UTF-8 cannot carry: a lone surrogate in a `str` is replaced by U+FFFD before it is tokenised (`clean`),
because it has no bytes; every other code point is passed on, and one that the vocabulary lacks becomes the
unknown id.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sentencepiece

from kserve.errors import BundleConfigError, BundleCorrupt, InvalidParameter

UNKNOWN, BEGIN, END, PADDING = 0, 1, 2, 3

# The word boundary mark of SentencePiece (U+2581).
_BOUNDARY = "\u2581"


def clean(text: str) -> str:
    """The text with every lone surrogate replaced by U+FFFD, so that it can be written as UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decode_utf8(data: bytes) -> str:
    """Bytes as text; each stretch that is not UTF-8 becomes U+FFFD."""
    return data.decode("utf-8", "replace")


class Tokenizer:
    """The SentencePiece model of one bundle.

    >>> tokenizer.encode("Ein Hund rennt.")      # doctest: +SKIP
    [17, 204, 911, 5, 2]
    """

    def __init__(self, model: bytes, vocab_size: int) -> None:
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise BundleCorrupt(
                f"tokenizer.model is no SentencePiece model ({error}). Export it again."
            ) from None
        pieces = int(processor.GetPieceSize())
        if pieces != vocab_size:
            raise BundleConfigError(
                f"tokenizer.model has {pieces} pieces, config.json says vocab_size {vocab_size}; they "
                "belong to "
                "different models. Export the model again."
            )
        marks = (processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id())
        if marks != (UNKNOWN, BEGIN, END, PADDING):
            raise BundleConfigError(
                f"tokenizer.model has unknown, begin, end, padding at ids {marks}; expected "
                f"{(UNKNOWN, BEGIN, END, PADDING)}. Train it with these ids."
            )
        self._processor = processor
        # A sentence is counted first, to see whether it is too long, then encoded.
        self._ids = lru_cache(4)(processor.EncodeAsIds)
        self.size = pieces

    def encode(self, text: str) -> list[int]:
        """Ids of the text, the end id last."""
        return [*self._ids(clean(text)), END]

    def encode_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the text, the end id last, and where in the text each but the last comes from."""
        found = self._processor.EncodeAsOffsetMapping(clean(text))
        return [*found["ids"], END], found["offsets"]

    def count(self, text: str) -> int:
        """Ids that `encode` would give, the end id included."""
        return len(self.encode(text))

    def knows(self, ids: Sequence[int]) -> bool:
        """Whether the vocabulary has any letters of the text; one in another script has none of them."""
        if UNKNOWN not in ids:
            return any(token > PADDING for token in ids)
        known = self.pieces([token for token in ids if token > PADDING])
        return any(letter.isalpha() for piece in known for letter in piece)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special ids stand for nothing. Never holds a line break, nor a blank at its end."""
        text = str(self._processor.DecodeIds([token for token in ids if token > PADDING]))
        return " ".join(text.splitlines()).rstrip(" ")

    def decode_spans(self, ids: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
        """Text of ids, and the place of each in it; empty for an id that stands for nothing there."""
        text = self.decode(ids)
        spans, end = [], 0
        for token, piece in zip(ids, self.pieces(ids), strict=True):
            shown = piece.replace(_BOUNDARY, " ") if token > PADDING else ""
            shown = shown if end else shown.lstrip()
            start, end = end, min(end + len(shown), len(text))
            spans.append((start, end))
        return text, spans

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The pieces of ids, as `ids` gives them back."""
        return [str(self._processor.IdToPiece(int(token))) for token in ids]

    def ids(self, pieces: Sequence[str]) -> list[int]:
        """Ids of pieces, the end id last; a piece that the vocabulary lacks is the unknown id."""
        for piece in pieces:
            if not isinstance(piece, str):
                raise InvalidParameter(
                    f"a token is {piece!r}; expected pieces as text, such as {_BOUNDARY + 'Hund'!r}"
                )
        return [*(int(self._processor.PieceToId(clean(piece))) for piece in pieces), END]
