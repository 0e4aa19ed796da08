"""fairseq dictionaries as SentencePiece models: the same pieces for the same text, rows in their order."""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import sentencepiece
import torch
from checkpoints import SENTENCES

from kserve.convert.pickles import ConvertError
from kserve.convert.vocabulary import (
    Vocabulary,
    from_bpe_codes,
    from_sentencepiece,
    never_chosen,
    read_dictionary,
)
from kserve.tokenizer import Tokenizer

TEXT = [side for pair in SENTENCES for side in pair]
UNSEEN = ["Der Hund schläft im Keller.", "A bicycle runs over fresh pears", "Lichtfensterkuchen 2 xyz"]


def write_dictionary(path: Path, symbols: list[str]) -> Path:
    """dict.txt with symbols by falling count, filled up to a multiple of eight as fairseq does."""
    lines = [f"{symbol} {1000 - rank}" for rank, symbol in enumerate(symbols)]
    while (len(lines) + 4) % 8:
        lines.append(f"madeupword{len(lines) - len(symbols):04d} 0")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train_sentencepiece(path: Path, kind: str) -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=150, model_type=kind, minloglevel=2
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def by_frequency(cut: list[list[str]]) -> list[str]:
    counts = Counter(piece for pieces in cut for piece in pieces)
    return [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


def symbols_of(path: Path) -> list[str]:
    return read_dictionary(path, len(path.read_text(encoding="utf-8").splitlines()) + 4)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece_dictionary_cuts_as_before(kind: str, tmp_path: Path) -> None:
    trained = train_sentencepiece(tmp_path / "spm.model", kind)
    cut = [trained.encode(text, out_type=str) for text in TEXT]
    symbols = symbols_of(write_dictionary(tmp_path / "dict.de.txt", by_frequency(cut)))
    vocabulary = from_sentencepiece(symbols, tmp_path / "spm.model")
    tokenizer = Tokenizer(vocabulary.tokenizer(), len(vocabulary.rows))
    for text, pieces in zip(TEXT, cut, strict=True):
        ids = tokenizer.encode(text)
        # Through the rows one gets to fairseq's symbols, the end token last.
        assert [symbols[vocabulary.rows[token]] for token in ids] == [*pieces, "</s>"]
        assert tokenizer.decode(ids) == trained.decode(pieces)
    assert [symbols[row] for row in vocabulary.rows[:4]] == ["<unk>", "<s>", "</s>", "<pad>"]


def learn_bpe(words: Counter[str], merges: int) -> list[tuple[str, str]]:
    """The merges of Sennrich et al. 2016, most frequent pair first; words that stay are not counted anew."""
    cut = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # words that have the pair, or had it

    def count(word: str, sign: int) -> None:
        for pair in pairwise(cut[word]):
            pairs[pair] += sign * words[word]
            where[pair].add(word)

    for word in words:
        count(word, 1)
    found: list[tuple[str, str]] = []
    while len(found) < merges and any(pairs.values()):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        found.append(best)
        for word in where.pop(best):
            count(word, -1)
            cut[word] = merge(cut[word], best)
            count(word, 1)
    return found


def merge(units: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    result: list[str] = []
    for unit in units:
        if result and (result[-1], unit) == pair:
            result[-1] += unit
        else:
            result.append(unit)
    return tuple(result)


def apply_bpe(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """Units as subword-nmt writes them, `@@` behind each but the last."""
    units: tuple[str, ...] = (*word[:-1], word[-1] + "</w>")
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(merges)))}
    while True:
        present = [pair for pair in pairwise(units) if pair in ranks]
        if not present:
            break
        units = merge(units, min(present, key=ranks.__getitem__))
    return [f"{unit}@@" for unit in units[:-1]] + [units[-1].removesuffix("</w>")]


def tokenized(text: str) -> list[str]:
    """Words and marks, as a tokeniser leaves them."""
    return re.findall(r"\w+|[^\w\s]", text)


def write_codes(path: Path, merges: list[tuple[str, str]]) -> Path:
    path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return path


def test_bpe_dictionary_cuts_as_before(tmp_path: Path) -> None:
    words = Counter(word for text in TEXT for word in tokenized(text))
    merges = learn_bpe(words, 120)
    cut = [[unit for word in tokenized(text) for unit in apply_bpe(word, merges)] for text in TEXT]
    symbols = symbols_of(write_dictionary(tmp_path / "dict.de.txt", by_frequency(cut)))
    vocabulary = from_bpe_codes(symbols, write_codes(tmp_path / "codes", merges))
    tokenizer = Tokenizer(vocabulary.tokenizer(), len(vocabulary.rows))
    assert any(row < 0 for row in vocabulary.rows)  # merges that are only steps to longer ones
    for text, units in zip(TEXT, cut, strict=True):
        line = " ".join(tokenized(text))
        ids = tokenizer.encode(line)
        assert [symbols[vocabulary.rows[token]] for token in ids] == [*units, "</s>"]
        assert tokenizer.decode(ids) == line


def test_words_that_nobody_saw_are_cut_alike(tmp_path: Path) -> None:
    words = Counter(word for text in TEXT for word in tokenized(text))
    merges = learn_bpe(words, 120)
    units = {unit for word in words for unit in apply_bpe(word, merges)}
    seen = {letter for word in words for letter in word}
    new = [word for text in UNSEEN for word in tokenized(text) if set(word) <= seen]
    units |= {unit for word in new for unit in apply_bpe(word, merges)}
    symbols = symbols_of(write_dictionary(tmp_path / "dict.txt", sorted(units)))
    vocabulary = from_bpe_codes(symbols, write_codes(tmp_path / "codes", merges))
    tokenizer = Tokenizer(vocabulary.tokenizer(), len(vocabulary.rows))
    assert len(new) > 8
    for word in new:
        ids = tokenizer.encode(word)[:-1]
        assert [symbols[vocabulary.rows[token]] for token in ids] == apply_bpe(word, merges)


@pytest.mark.data
def test_words_of_real_text_are_cut_alike(data_dir: Path, tmp_path: Path) -> None:
    """SentencePiece merges by what comes out, subword-nmt by the two parts: no word shows the difference."""

    def words_of(name: str, lines: int) -> Counter[str]:
        text = (data_dir / name).read_text(encoding="utf-8").lower().split("\n")[:lines]
        return Counter(word for line in text for word in tokenized(line))

    known, others = words_of("train-everyday.de", 4000), words_of("news-valid.de", 2000)
    merges = learn_bpe(known, 600)
    letters = {letter for word in known for letter in word}
    words = [word for word in {**known, **others} if set(word) <= letters]
    cut = {word: apply_bpe(word, merges) for word in words}
    units = sorted({unit for pieces in cut.values() for unit in pieces})
    symbols = symbols_of(write_dictionary(tmp_path / "dict.txt", units))
    vocabulary = from_bpe_codes(symbols, write_codes(tmp_path / "codes", merges))
    tokenizer = Tokenizer(vocabulary.tokenizer(), len(vocabulary.rows))
    assert len(words) > 9000
    assert sum(word not in known for word in words) > 5000
    for word, pieces in cut.items():
        assert [symbols[vocabulary.rows[token]] for token in tokenizer.encode(word)[:-1]] == pieces


def test_row_without_a_counterpart_never_counts() -> None:
    """Its logit is the same small number whatever the hidden state is."""
    torch.manual_seed(1)
    gain, bias = torch.rand(64) + 0.5, torch.randn(64) * 0.3
    row = never_chosen(gain, bias, torch.zeros(64))
    hidden = torch.nn.functional.layer_norm(torch.randn(500, 64) * 5, (64,), gain, bias)
    torch.testing.assert_close(hidden @ row, torch.full((500,), -60.0), rtol=0, atol=1e-3)
    unknown = torch.randn(64)
    assert torch.equal(never_chosen(gain, torch.zeros(64), unknown), unknown)
    assert torch.equal(never_chosen(torch.zeros(64), bias, unknown), unknown)


def test_rows_follow_the_pieces(tmp_path: Path) -> None:
    symbols = symbols_of(write_dictionary(tmp_path / "dict.txt", ["a@@", "b", "ab", "a"]))
    vocabulary = from_bpe_codes(symbols, write_codes(tmp_path / "codes", [("a", "b</w>"), ("c", "d")]))
    embedding = torch.arange(8.0)[:, None].expand(8, 4)
    table = vocabulary.table(embedding, torch.ones(4), torch.tensor([0.5, 1.0, 1.0, 1.0]))
    assert table[:8, 0].tolist() == [3, 0, 2, 1, 4, 5, 6, 7]
    pieces = [piece.piece for piece in vocabulary.proto.pieces]
    assert pieces[4:8] == ["a", "b\u2581", "ab\u2581", "a\u2581"]
    assert pieces.index("cd") >= 8
    assert torch.equal(
        table[pieces.index("cd")], never_chosen(torch.ones(4), torch.tensor([0.5, 1, 1, 1]), table[0])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 1\nb\n", "line 2: 'b'; expected a symbol and its count"),
        ("a 1\na 2\n", "line 2: the symbol 'a' comes a second time"),
        ("a 1\nb x\n", "line 2"),
        ("a 1\n", "has 5 symbols with the four special ones, the embedding 6 rows"),
    ],
)
def test_damaged_dictionaries_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "dict.txt").write_text(content)
    with pytest.raises(ConvertError, match=message):
        read_dictionary(tmp_path / "dict.txt", 6)


def test_files_that_are_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match="cannot read"):
        read_dictionary(tmp_path / "nowhere.txt", 6)
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9 1\n")
    with pytest.raises(ConvertError, match="not valid UTF-8"):
        read_dictionary(tmp_path / "latin1.txt", 6)
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "a@@", "b"]
    (tmp_path / "codes").write_text("a b\n")
    with pytest.raises(ConvertError, match=r"does not begin with `#version: 0\.2`"):
        from_bpe_codes(symbols, tmp_path / "codes")
    (tmp_path / "codes").write_text("#version: 0.2\na b\nc\n")
    with pytest.raises(ConvertError, match="line 3: 'c'; expected the two parts of a merge"):
        from_bpe_codes(symbols, tmp_path / "codes")
    for name, content in (("empty.model", b""), ("text.model", b"no model")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConvertError, match="is no SentencePiece model"):
            from_sentencepiece(symbols, tmp_path / name)
    with pytest.raises(ConvertError, match="cannot read"):
        from_sentencepiece(symbols, tmp_path / "nowhere.model")


def test_dictionary_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    train_sentencepiece(tmp_path / "spm.model", "unigram")
    symbols = ["<s>", "<pad>", "</s>", "<unk>", "un@@", "known@@", "a"]
    with pytest.raises(ConvertError, match="2 of 3 symbols of the dictionary are no pieces of"):
        from_sentencepiece(symbols, tmp_path / "spm.model")


def test_piece_that_comes_twice_is_told_apart() -> None:
    vocabulary = from_bpe_codes_of(["a@@", "a@@ b"])
    assert len({piece.piece for piece in vocabulary.proto.pieces}) == len(vocabulary.rows)


def from_bpe_codes_of(units: list[str]) -> Vocabulary:
    from kserve.convert.vocabulary import schema

    vocabulary = Vocabulary.like(schema.ModelProto())
    for unit in [*units, *units, ""]:
        vocabulary.add(unit, 4)
    return vocabulary
