"""A fairseq dictionary as a SentencePiece model with the same pieces, and the embedding rows in its order.

Two kinds of dictionaries can be carried over, because each cut of a word can be made by SentencePiece too:

* of SentencePiece pieces: the model that cut the training text is given, and its pieces are put in order;
* of subword-nmt's BPE units (`un@@ it`): the merges become a SentencePiece model of type BPE that marks the
  ends of words and not their beginnings. Text must then be tokenised as that for training was, usually by
  Moses.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sentencepiece import sentencepiece_model_pb2 as generated
from torch import Tensor

from kserve.convert.fairseq import FAIRSEQ_BEGIN, FAIRSEQ_END, FAIRSEQ_PADDING, FAIRSEQ_UNKNOWN
from kserve.convert.pickles import ConvertError

schema: Any = generated  # made by protobuf while it is imported: nothing in it has a type
Proto = Any

_SPECIALS = ("<unk>", "<s>", "</s>", "<pad>")  # in the order of this program's ids
_SPECIAL_ROWS = (FAIRSEQ_UNKNOWN, FAIRSEQ_BEGIN, FAIRSEQ_END, FAIRSEQ_PADDING)
_MADE_UP = "madeupword"  # fairseq fills its dictionary with these to a multiple of eight
_BOUNDARY = "\u2581"
_CONTINUES, _ENDS = (
    "@@",
    "</w>",
)  # subword-nmt's marks: a unit that is followed by another, a merge that ends a word
_NO_ROW = -1
_FIRST = 1000.0  # score of what belongs together before any merge
_LEAST_LOGIT = -60.0  # of a piece that must never count


@dataclass
class Vocabulary:
    """A SentencePiece model under construction and, for each of its ids, the row of fairseq's embedding."""

    proto: Proto
    rows: list[int] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    @classmethod
    def like(cls, proto: Proto) -> Vocabulary:
        """Without pieces but the special ones, otherwise as `proto`."""
        result = cls(schema.ModelProto())
        result.proto.CopyFrom(proto)
        del result.proto.pieces[:]
        spec = result.proto.trainer_spec
        spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = range(4)
        spec.unk_piece, spec.bos_piece, spec.eos_piece, spec.pad_piece = _SPECIALS
        kinds = schema.ModelProto.SentencePiece
        for name, row in zip(_SPECIALS, _SPECIAL_ROWS, strict=True):
            result.add(name, row, kind=kinds.UNKNOWN if name == _SPECIALS[0] else kinds.CONTROL)
        return result

    def add(self, name: str, row: int, score: float = 0.0, kind: int | None = None) -> None:
        """Append a piece; a name that is there already, or empty, becomes one that no text has."""
        kinds = schema.ModelProto.SentencePiece
        piece = self.proto.pieces.add()
        fresh = bool(name) and name not in self.names
        piece.piece = name if fresh else f"{name}\t{len(self.rows)}"
        piece.score = score
        piece.type = (kinds.NORMAL if kind is None else kind) if fresh else kinds.UNUSED
        self.names.add(piece.piece)
        self.rows.append(row)

    def tokenizer(self) -> bytes:
        """The bytes of tokenizer.model."""
        self.proto.trainer_spec.vocab_size = len(self.rows)
        data: bytes = self.proto.SerializeToString()
        return data

    def table(self, embedding: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """Rows of the embedding (fairseq's vocabulary, d) in the order of the pieces.

        Args:
            embedding: fairseq's table.
            gain: (d,), of the norm in front of the output layer.
            bias: (d,), of the same.
        """
        rows = torch.tensor(self.rows)
        table = embedding[rows.clamp_min(0)].clone()
        table[rows == _NO_ROW] = never_chosen(gain, bias, embedding[FAIRSEQ_UNKNOWN])
        return table


def never_chosen(gain: Tensor, bias: Tensor, unknown: Tensor) -> Tensor:
    """An embedding row whose logit is the same very small number for every hidden state.

    A layer norm gives h = gain * z + bias, where the numbers of z add up to 0. The row c / gain has the logit
    c * sum(z) + c * sum(bias / gain), in which only the constant is left. Where the constant cannot be chosen
    (no bias), the row of the unknown token is taken, whose logit is small in any trained model.
    """
    ratio = bias / gain
    total = ratio.sum()
    if not torch.isfinite(ratio).all() or total.abs() <= 0.1 * ratio.square().sum().sqrt():
        return unknown.clone()
    return _LEAST_LOGIT / total / gain


def read_dictionary(path: Path, embedding_rows: int) -> list[str]:
    """The symbols of a fairseq dictionary file in the order of their ids, the four special ones first.

    Raises:
        ConvertError: the file is missing or none, or has not as many symbols as the embedding has rows.
    """
    symbols = ["<s>", "<pad>", "</s>", "<unk>"]
    known = set(symbols)
    for number, line in enumerate(read_text(path), 1):
        fields = line.removesuffix(" #fairseq:overwrite").rsplit(" ", 1)
        if len(fields) != 2 or not fields[1].lstrip("-").isdecimal():
            raise ConvertError(f"{path}, line {number}: {line!r}; expected a symbol and its count")
        if fields[0] in known:
            if fields[0] in symbols[:4] or line.endswith("overwrite"):
                continue
            raise ConvertError(f"{path}, line {number}: the symbol {fields[0]!r} comes a second time")
        known.add(fields[0])
        symbols.append(fields[0])
    if len(symbols) != embedding_rows:
        raise ConvertError(
            f"{path} has {len(symbols)} symbols with the four special ones, the embedding {embedding_rows} "
            "rows; give the dictionary of this model"
        )
    return symbols


def from_sentencepiece(symbols: Sequence[str], model: Path) -> Vocabulary:
    """The vocabulary of a dictionary whose text was cut by this SentencePiece model.

    Pieces that the dictionary lacks go; of a BPE model they stay, unused, since merges may pass through them.

    Raises:
        ConvertError: the file is no SentencePiece model, or few of the symbols are pieces of it.
    """
    proto = _read_proto(model)
    pieces = {piece.piece: piece for piece in proto.pieces}
    _check_cutter(symbols, pieces, model)
    kinds = schema.ModelProto.SentencePiece
    result = Vocabulary.like(proto)
    worst = min(piece.score for piece in proto.pieces)
    for row, symbol in enumerate(symbols[4:], 4):
        if symbol in pieces:
            result.add(symbol, row, pieces[symbol].score, pieces[symbol].type)
        else:  # a character that the model did not know passed through it as it was
            made_up = symbol.startswith(_MADE_UP)
            result.add(symbol, row, worst - 10.0, kinds.UNUSED if made_up else kinds.NORMAL)
    _add_absent(result, proto)
    return result


def _check_cutter(symbols: Sequence[str], pieces: Container[str], model: Path) -> None:
    """Raise ConvertError if most of the symbols cannot come from this model."""
    ordinary = [symbol for symbol in symbols[4:] if not symbol.startswith(_MADE_UP)]
    missing = [symbol for symbol in ordinary if symbol not in pieces]
    if 2 * len(missing) > len(ordinary):
        raise ConvertError(
            f"{len(missing)} of {len(ordinary)} symbols of the dictionary are no pieces of {model}, such as "
            f"{missing[0]!r}; give the SentencePiece model that cut the training text, or --bpe-codes"
        )


def _add_absent(vocabulary: Vocabulary, proto: Proto) -> None:
    """The model's pieces that the dictionary lacks, as far as they are needed."""
    kinds = schema.ModelProto.SentencePiece
    absent = [piece for piece in proto.pieces if piece.piece not in vocabulary.names]
    if any(piece.type == kinds.BYTE for piece in absent):
        vocabulary.proto.trainer_spec.byte_fallback = False
    if proto.trainer_spec.model_type == schema.TrainerSpec.BPE:
        for piece in absent:
            if piece.type == kinds.NORMAL:
                vocabulary.add(piece.piece, _NO_ROW, piece.score, kinds.UNUSED)


def from_bpe_codes(symbols: Sequence[str], codes: Path) -> Vocabulary:
    """The vocabulary of a dictionary whose text was cut by subword-nmt with these codes.

    Raises:
        ConvertError: the file holds no codes of version 0.2.
    """
    merges = _read_codes(codes)
    proto = schema.ModelProto()
    spec, normalizer = proto.trainer_spec, proto.normalizer_spec
    spec.model_type = schema.TrainerSpec.BPE
    spec.treat_whitespace_as_suffix = True
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = normalizer.escape_whitespaces = True
    result = Vocabulary.like(proto)
    scores = _merge_scores(merges, symbols)
    kinds = schema.ModelProto.SentencePiece
    for row, symbol in enumerate(symbols[4:], 4):
        name = "" if symbol.startswith(_MADE_UP) else _piece_of_unit(symbol)
        result.add(name, row, scores.get(name, -_FIRST - len(merges)))
    for name, score in scores.items():
        if name not in result.names:
            result.add(name, _NO_ROW, score, kinds.UNUSED)
    return result


def _merge_scores(merges: Sequence[tuple[str, str]], symbols: Iterable[str]) -> dict[str, float]:
    """A score for each piece: of merges by rank; a word's last letter and its end are one from the start."""
    scores: dict[str, float] = {}
    for rank, (left, right) in enumerate(merges):
        scores.setdefault(_piece_of_merge(left + right), -float(rank))
    letters = {letter for pair in merges for part in pair for letter in part.removesuffix(_ENDS)}
    letters |= {letter for symbol in symbols for letter in symbol.removesuffix(_CONTINUES)}
    for letter in sorted(letters - {_BOUNDARY}):
        scores.setdefault(letter, -float(len(merges)))
        scores.setdefault(letter + _BOUNDARY, _FIRST)
    scores.setdefault(_BOUNDARY, -float(len(merges)))
    return scores


def _piece_of_unit(unit: str) -> str:
    return unit.removesuffix(_CONTINUES) if unit.endswith(_CONTINUES) else unit + _BOUNDARY


def _piece_of_merge(merged: str) -> str:
    return merged.removesuffix(_ENDS) + _BOUNDARY if merged.endswith(_ENDS) else merged


def _read_codes(path: Path) -> list[tuple[str, str]]:
    lines = read_text(path)
    if not lines or lines[0].strip() != "#version: 0.2":
        raise ConvertError(
            f"{path} does not begin with `#version: 0.2`; expected codes of subword-nmt, in which the last "
            "letter of a word carries the mark of its end"
        )
    merges = []
    for number, line in enumerate(lines[1:], 2):
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise ConvertError(f"{path}, line {number}: {line!r}; expected the two parts of a merge")
        merges.append((parts[0], parts[1]))
    return merges


def _read_proto(path: Path) -> Proto:
    proto = schema.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # protobuf's DecodeError has no stable home
        raise ConvertError(f"{path} is no SentencePiece model ({type(error).__name__})") from None
    if not proto.pieces:
        raise ConvertError(f"{path} is no SentencePiece model; it has no pieces")
    return proto


def read_text(path: Path) -> list[str]:
    """The lines of a UTF-8 file, blank ones at its end left out; raises ConvertError."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except OSError as error:
        raise ConvertError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConvertError(f"{path} is not valid UTF-8 ({error.reason})") from None
