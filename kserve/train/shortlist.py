"""`kserve export --shortlist`: for each source token, the target tokens that may translate it.

A sentence's output layer then looks at some hundred tokens instead of the whole vocabulary. The lists come
from the training text by the first alignment model of Brown et al. 1993 ("The Mathematics of Statistical
Machine Translation", section 4.2), as Schwenk et al. 2007 and Devlin 2017 used them: a few rounds of
expectation maximisation over token pairs, no order, no model of the sentence.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kserve.evaluate import TestSet, evaluate
from kserve.tokenizer import END, PADDING
from kserve.train.data import Corpora, Pairs
from kserve.train.draft import Draft
from kserve.translator import Translator

Ids = NDArray[np.int32]
Floats = NDArray[np.float32]

ROUNDS = 4  # the lists hardly change any more
WORST_LOSS = 0.1  # of BLEU, the mean over the texts they are tried on, for lists that are used by default
_CELLS = 1 << 22  # source tokens times target tokens that are looked at together


@dataclass(frozen=True)
class Size:
    """How long the lists may be.

    Attributes:
        each: Translations of a source token, at most.
        least: Probability of one, at least.
        always: Tokens that any sentence may hold: so many of the most frequent ones of the target text.
    """

    each: int
    least: float
    always: int


# Tried in turn until the loss is small. Of 8 000 tokens the first leaves some 280 for an everyday sentence,
# the second 610, the others little more than they have for any sentence: more of those help more than more
# for each token, whose lists soon take some MB.
SIZES = tuple(Size(64, 1e-3, always) for always in (128, 512, 1024, 2048))


@dataclass(frozen=True)
class Shortlist:
    """The tensors of a bundle, by their names behind `shortlist.`."""

    first: Ids  # (vocabulary + 1,): where the tokens of each source token begin, and all of them end
    tokens: Ids  # ascending for each source token
    always: Ids  # ascending

    def of(self, source: list[int]) -> Ids:
        """The tokens that a sentence of these ids may hold, its end among them."""
        lists = [self.tokens[self.first[token] : self.first[token + 1]] for token in source]
        return np.unique(np.concatenate([*lists, self.always, [END]])).astype(np.int32)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """By their names in a bundle."""
        return {f"shortlist.{name}": getattr(self, name) for name in ("first", "tokens", "always")}


def with_shortlist(draft: Draft, corpora: Corpora, texts: Mapping[str, Pairs]) -> Draft:
    """The draft with lists learned from the corpora, and what they cost on texts, by their names.

    They are the shortest of `SIZES` that cost at most `WORST_LOSS` in the mean over the texts, and the
    default then; if all cost more, they are those that cost least.
    """
    probability = _translations(corpora, draft.config["architecture"]["vocab_size"])
    counts = _target_counts(corpora, len(probability))
    with _written(draft) as translator:
        whole = {name: _bleu(translator, pairs, shortlist=False) for name, pairs in texts.items()}
    tried: list[tuple[float, Draft]] = []
    for size in SIZES:
        lists = _make_lists(probability, counts, size)
        one = _with_lists(draft, lists)
        listed, found = _cost(one, lists, texts)
        scores = {name: {"bleu": found[name], "bleu_whole": whole[name]} for name in texts}
        loss = statistics.mean(whole[name] - found[name] for name in texts)
        facts = {**asdict(size), "listed": listed, "texts": scores}
        tried.append((loss, _with_facts(one, facts, default=loss <= WORST_LOSS)))
        if loss <= WORST_LOSS:
            break
    return min(tried, key=itemgetter(0))[1]


def _with_facts(draft: Draft, facts: Mapping[str, Any], default: bool) -> Draft:
    generation = {**draft.config["generation"], "shortlist": default}
    provenance = {**draft.config["provenance"], "shortlist": dict(facts)}
    return replace(draft, config={**draft.config, "generation": generation, "provenance": provenance})


def _with_lists(draft: Draft, lists: Shortlist) -> Draft:
    size = {"tokens": len(lists.tokens), "always": len(lists.always)}
    architecture = {**draft.config["architecture"], "shortlist": size}
    return replace(
        draft,
        config={**draft.config, "architecture": architecture},
        tensors={**draft.tensors, **lists.tensors()},
    )


def _cost(draft: Draft, lists: Shortlist, texts: Mapping[str, Pairs]) -> tuple[float, dict[str, float]]:
    """How many tokens the lists leave a sentence of all texts, and BLEU with them on each."""
    with _written(draft) as translator:
        sources = [source for pairs in texts.values() for source, _ in pairs]
        listed = [len(lists.of(translator.tokenizer.encode(source))) for source in sources]
        scores = {name: _bleu(translator, pairs, shortlist=True) for name, pairs in texts.items()}
        return float(np.mean(listed)), scores


def _bleu(translator: Translator, pairs: Pairs, shortlist: bool) -> float:
    text = TestSet([source for source, _ in pairs], [target for _, target in pairs])
    return float(evaluate(translator, text, {"shortlist": shortlist})["bleu"])


@contextmanager
def _written(draft: Draft) -> Iterator[Translator]:
    with tempfile.TemporaryDirectory(prefix="kserve-shortlist-") as folder:
        draft.write(Path(folder) / "draft")
        yield Translator(Path(folder) / "draft")


def learn_shortlist(corpora: Corpora, vocab_size: int, size: Size = SIZES[0]) -> Shortlist:
    """Learn the lists from encoded sentence pairs of one vocabulary."""
    probability = _translations(corpora, vocab_size)
    return _make_lists(probability, _target_counts(corpora, vocab_size), size)


def _target_counts(corpora: Corpora, vocab_size: int) -> NDArray[np.int64]:
    counts = np.bincount(corpora.target_ids, minlength=vocab_size)
    counts[: PADDING + 1] = 0
    return counts


def _make_lists(probability: Floats, counts: NDArray[np.int64], size: Size) -> Shortlist:
    """The lists of a size. A source token is on its own: names and numbers are copied."""
    lists = [_list_of(token, one, size) for token, one in enumerate(probability)]
    first = np.zeros(len(probability) + 1, np.int32)
    np.cumsum([len(tokens) for tokens in lists], out=first[1:])
    frequent = np.argsort(-counts, kind="stable")[: size.always]
    always = np.sort(frequent[counts[frequent] > 0]).astype(np.int32)
    return Shortlist(first, np.concatenate(lists), always)


def _list_of(token: int, probability: Floats, size: Size) -> Ids:
    count = min(size.each, len(probability))
    best = np.argpartition(-probability, count - 1)[:count]
    kept = {int(target) for target in best if probability[target] >= size.least}
    return np.array(sorted(target for target in kept | {token} if target > PADDING), np.int32)


def _translations(corpora: Corpora, vocab_size: int) -> Floats:
    """Probability (vocabulary of the source, vocabulary of the target) of each translation."""
    probability = np.ones((vocab_size, vocab_size), np.float32)
    for _ in tqdm(range(ROUNDS), desc="shortlist", unit="round", leave=False, disable=None):
        counts = np.zeros(vocab_size * vocab_size, np.float32)
        for source, target in _rectangles(corpora):
            places = source[:, None, :] * np.int64(vocab_size) + target[:, :, None]
            shares = probability.reshape(-1)[places]
            shares /= shares.sum(axis=2, keepdims=True)
            np.add.at(counts, places.reshape(-1), shares.reshape(-1))
        probability = counts.reshape(vocab_size, vocab_size)
        probability /= np.maximum(probability.sum(axis=1, keepdims=True), 1e-9)
    return probability


def _rectangles(corpora: Corpora) -> Iterator[tuple[Ids, Ids]]:
    """Source (pairs, time) and target (pairs, time) ids of pairs whose lengths are the same."""
    lengths = np.stack([np.diff(corpora.source_offsets), np.diff(corpora.target_offsets)])
    order = np.lexsort(lengths)
    edges = np.flatnonzero(np.any(np.diff(lengths[:, order], axis=1), axis=0)) + 1
    for same in np.split(order, edges):
        source, target = (int(length) for length in lengths[:, same[0]])
        at_once = max(1, _CELLS // (source * target))
        for start in range(0, len(same), at_once):
            pairs = same[start : start + at_once]
            yield (
                corpora.source_ids[corpora.source_offsets[pairs][:, None] + np.arange(source)],
                corpora.target_ids[corpora.target_offsets[pairs][:, None] + np.arange(target)],
            )
