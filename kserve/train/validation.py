"""How good a model is while it trains: negative log-likelihood and greedy BLEU on the validation text."""

from __future__ import annotations

from dataclasses import dataclass

import sacrebleu
import sentencepiece
import torch

from kserve.train.batches import make_batch, plan_batches
from kserve.train.data import Pairs, encode_pairs
from kserve.train.model import DynamicConvModel

GREEDY_SENTENCES = 64  # of one batch
NLL_TOKENS = 2000


@dataclass(frozen=True)
class Scores:
    """Cased BLEU of greedy translations, and negative log-likelihood a token."""

    bleu: float
    nll: float


def validate(
    model: DynamicConvModel, tokenizer: sentencepiece.SentencePieceProcessor, pairs: Pairs
) -> Scores:
    """Score the model, which is in evaluation mode from then on."""
    model.eval()
    return Scores(_bleu(model, tokenizer, pairs), _nll(model, tokenizer, pairs))


def _bleu(model: DynamicConvModel, tokenizer: sentencepiece.SentencePieceProcessor, pairs: Pairs) -> float:
    sources = tokenizer.encode([source for source, _ in pairs], add_eos=True)
    order = sorted(range(len(pairs)), key=lambda i: len(sources[i]))
    outputs = [""] * len(pairs)
    for start in range(0, len(order), GREEDY_SENTENCES):
        rows = order[start : start + GREEDY_SENTENCES]
        for row, ids in zip(rows, model.greedy([sources[i] for i in rows]), strict=True):
            outputs[row] = tokenizer.decode(ids)
    return float(sacrebleu.corpus_bleu(outputs, [[target for _, target in pairs]]).score)


@torch.no_grad()
def _nll(model: DynamicConvModel, tokenizer: sentencepiece.SentencePieceProcessor, pairs: Pairs) -> float:
    corpora, _ = encode_pairs(pairs, tokenizer, model.arch.max_positions)
    total, tokens = 0.0, 0
    for rows in plan_batches(corpora, NLL_TOKENS, seed=0, epoch=0):
        batch = make_batch(corpora, rows, model.positions.device)
        _, totals = model(batch, smoothing=0.0, weight=1.0)
        total, tokens = total + float(totals[1]), tokens + batch.target_tokens
    return total / tokens
