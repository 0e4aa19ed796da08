"""The output layer: its choice is that of exact logits, on every path and for every number of rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import reference
from kserve._engine import kernels
from kserve.dense_layout import byte_panels
from reference import UNIT_ROUNDOFF, Floats, random_floats

Bytes = NDArray[np.int8]
FloatRows = NDArray[np.float32]

# Vocabularies around the 64 tokens that are taken at a time, rows around the blocks of every path.
TOKENS = [1, 3, 63, 65, 130]
SIZES = [1, 15, 31, 33, 64, 65, 100, 512, 1025]
token_cases = pytest.mark.parametrize("tokens", TOKENS, ids=[f"tokens{t}" for t in TOKENS])
size_cases = pytest.mark.parametrize("n", SIZES, ids=[f"n{n}" for n in SIZES])


def make_words(seed: int, tokens: int, n: int) -> tuple[Bytes, FloatRows]:
    """A table and its scale; -128 occurs, though no exporter writes it."""
    rng = np.random.default_rng((seed, tokens, n))
    scale = (rng.uniform(0.5, 1.5, tokens) * 0.05 / np.sqrt(n)).astype(np.float32)
    return rng.integers(-128, 128, (tokens, n), dtype=np.int8), scale


def vocabulary_of(words: Bytes, scale: FloatRows) -> kernels.Vocabulary:
    return kernels.Vocabulary(words, byte_panels(words), scale)


def make_rows(seed: int, rows: int, n: int) -> FloatRows:
    return random_floats(np.random.default_rng((seed, n)), rows, n)


def best_of(logits: FloatRows, count: int) -> NDArray[np.int64]:
    """Ids (rows, count) of the largest, equal ones in ascending order."""
    order: NDArray[np.int64] = np.argsort(-logits, axis=1, kind="stable")[:, :count]
    return order


def log_sum_exp_bound(words: Bytes, scale: FloatRows, h: FloatRows) -> Floats:
    """The largest error of a logit from 8-bit codes, and of adding up near exponentials."""
    reach = (np.linalg.norm(words.astype(np.float64), axis=1) * np.abs(scale)).max()
    rows = h.astype(np.float64)
    step = np.abs(rows).max(axis=1, keepdims=True) / 127
    rest = np.linalg.norm(rows - np.rint(rows / np.maximum(step, 1e-300)) * step, axis=1)
    total = np.abs(reference.log_sum_exp(reference.vocabulary_logits(words, scale, h)[0]))
    return np.asarray(reach * rest * 1.01 + 1e-4 + 1e-6 * total)


@size_cases
@token_cases
def test_exact_logits_against_float64(table: kernels.Kernels, tokens: int, n: int) -> None:
    words, scale = make_words(1, tokens, n)
    h = make_rows(1, 2, n)
    want, magnitude = reference.vocabulary_logits(words, scale, h)
    got = table.token_logits(vocabulary_of(words, scale), h)
    assert (np.abs(got - want) <= (n / 16 + 8) * UNIT_ROUNDOFF * magnitude).all()


@size_cases
@token_cases
def test_best_tokens_are_those_of_exact_logits(table: kernels.Kernels, tokens: int, n: int) -> None:
    words, scale = make_words(2, tokens, n)
    h = make_rows(2, 5, n)
    vocabulary = vocabulary_of(words, scale)
    exact = table.token_logits(vocabulary, h)
    for count in (1, 10, tokens):
        count = min(count, tokens)
        ids, logits, totals = table.rank_tokens(vocabulary, h, count)
        np.testing.assert_array_equal(ids, best_of(exact, count))
        np.testing.assert_array_equal(logits, np.take_along_axis(exact, ids, axis=1))
        want = reference.log_sum_exp(reference.vocabulary_logits(words, scale, h)[0])
        assert (np.abs(totals - want) <= log_sum_exp_bound(words, scale, h)).all()


def test_ten_thousand_states_choose_as_exact_logits_do(table: kernels.Kernels) -> None:
    """Arg-max and top 10 over 10 000 states; small steps of the table make near ties common."""
    states, tokens, n = 10_000, 300, 48
    rng = np.random.default_rng(3)
    words = rng.integers(-3, 4, (tokens, n), dtype=np.int8)
    scale = np.full(tokens, 0.05, np.float32)
    h = random_floats(rng, states, n)
    vocabulary = vocabulary_of(words, scale)
    exact = table.token_logits(vocabulary, h)
    order = best_of(exact, 10)
    np.testing.assert_array_equal(table.rank_tokens(vocabulary, h, 10)[0], order)
    np.testing.assert_array_equal(table.rank_tokens(vocabulary, h, 1)[0], order[:, :1])
    # Against float64: two tokens change places only where fp32 cannot tell them apart.
    want, magnitude = reference.vocabulary_logits(words, scale, h)
    bound = 2 * (n / 16 + 8) * UNIT_ROUNDOFF * magnitude.max(axis=1)
    chosen = np.take_along_axis(want, order, axis=1)
    sorted_best = -np.sort(-want, axis=1)[:, :10]
    assert (np.abs(chosen - sorted_best) <= bound[:, None]).all()
    assert (order[:, 0] != want.argmax(axis=1)).mean() < 0.001


@pytest.mark.parametrize("n", [7, 64, 75, 256], ids=lambda n: f"n{n}")
def test_row_does_not_depend_on_the_others(table: kernels.Kernels, n: int) -> None:
    words, scale = make_words(4, 133, n)
    h = make_rows(4, 9, n)
    vocabulary = vocabulary_of(words, scale)
    alone = [table.rank_tokens(vocabulary, h[i : i + 1], 6) for i in range(9)]
    for rows in range(1, 10):
        together = table.rank_tokens(vocabulary, h[:rows], 6)
        for whole, parts in zip(together, zip(*alone[:rows], strict=True), strict=True):
            np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_integer_sums_do_not_overflow(table: kernels.Kernels) -> None:
    """Extreme numbers in long rows: all -128 against a row of equal numbers of either sign."""
    for n in (511, 512, 513, 4096):
        words = np.full((5, n), -128, np.int8)
        words[1], words[2] = 127, -127
        h = np.full((2, n), 3.25, np.float32)
        h[1] = -3.25
        scale = np.full(5, 1e-5, np.float32)
        ids, logits, totals = table.rank_tokens(vocabulary_of(words, scale), h, 5)
        assert ids.tolist() == [[1, 2, 0, 3, 4], [0, 3, 4, 2, 1]]
        want = reference.vocabulary_logits(words, scale, h)[0]
        np.testing.assert_allclose(logits, np.take_along_axis(want, ids, axis=1), rtol=1e-5)
        assert (np.abs(totals - reference.log_sum_exp(want)) <= log_sum_exp_bound(words, scale, h)).all()


def test_equal_logits_are_taken_in_the_order_of_their_ids(table: kernels.Kernels) -> None:
    words, scale = np.ones((200, 40), np.int8), np.ones(200, np.float32)
    ids, logits, totals = table.rank_tokens(vocabulary_of(words, scale), np.ones((3, 40), np.float32), 70)
    assert (ids == np.arange(70)).all()
    assert (logits == 40).all()
    np.testing.assert_allclose(totals, 40 + np.log(200), atol=1e-4)


def test_barred_tokens_count_in_the_sum_and_are_never_taken(table: kernels.Kernels) -> None:
    words, scale = make_words(5, 150, 64)
    h = make_rows(5, 4, 64)
    vocabulary = vocabulary_of(words, scale)
    free_ids, _, free_totals = table.rank_tokens(vocabulary, h, 8)
    barred = sorted({*free_ids[:, 0].tolist(), *free_ids[:, 2].tolist()})
    ids, _, totals = table.rank_tokens(vocabulary, h, 3, barred)
    exact = table.token_logits(vocabulary, h)
    exact[:, barred] = -np.inf
    np.testing.assert_array_equal(ids, best_of(exact, 3))
    # Another token's logit is put right in the sum.
    bound = log_sum_exp_bound(words, scale, h)
    assert (np.abs(totals - free_totals) <= 2 * bound).all()


def test_fewer_tokens_than_asked_for_end_in_minus_one(table: kernels.Kernels) -> None:
    words, scale = make_words(6, 5, 16)
    ids, logits, _ = table.rank_tokens(vocabulary_of(words, scale), make_rows(6, 1, 16), 7, [0, 3])
    assert sorted(ids[0, :3].tolist()) == [1, 2, 4]
    assert ids[0, 3:].tolist() == [-1] * 4
    assert np.isneginf(logits[0, 3:]).all()


def test_no_tokens_asked_for_gives_the_log_sum_exp_alone(table: kernels.Kernels) -> None:
    words, scale = make_words(7, 150, 64)
    h = make_rows(7, 3, 64)
    ids, _, totals = table.rank_tokens(vocabulary_of(words, scale), h, 0)
    assert ids.shape == (3, 0)
    want = reference.log_sum_exp(reference.vocabulary_logits(words, scale, h)[0])
    assert (np.abs(totals - want) <= log_sum_exp_bound(words, scale, h)).all()


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-12, 1e12, 1e30], ids=lambda s: f"size{s:g}")
def test_hidden_states_of_any_size(table: kernels.Kernels, size: float) -> None:
    """From subnormal numbers, where all logits round to 0 or tie, to nearly overflowing ones."""
    words, scale = make_words(8, 150, 64)
    h = (make_rows(8, 3, 64) * np.float32(size)).astype(np.float32)
    vocabulary = vocabulary_of(words, scale)
    exact = table.token_logits(vocabulary, h)
    ids, logits, totals = table.rank_tokens(vocabulary, h, 10)
    np.testing.assert_array_equal(ids, best_of(exact, 10))
    np.testing.assert_array_equal(logits, np.take_along_axis(exact, ids, axis=1))
    assert (
        np.abs(totals - reference.log_sum_exp(exact.astype(np.float64))) <= log_sum_exp_bound(words, scale, h)
    ).all()


def test_one_huge_number_leaves_the_choice_exact(table: kernels.Kernels) -> None:
    """All other numbers of the row become code 0, so every token might be the best."""
    words, scale = make_words(9, 150, 64)
    words[:, 11] = 5
    h = make_rows(9, 2, 64)
    h[:, 11] = 1e6
    vocabulary = vocabulary_of(words, scale)
    ids, _, _ = table.rank_tokens(vocabulary, h, 10)
    np.testing.assert_array_equal(ids, best_of(table.token_logits(vocabulary, h), 10))


def test_zero_row_ties_everything(table: kernels.Kernels) -> None:
    words, scale = make_words(10, 100, 32)
    ids, logits, totals = table.rank_tokens(vocabulary_of(words, scale), np.zeros((1, 32), np.float32), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]]
    assert (logits == 0).all()
    assert totals[0] == pytest.approx(np.log(100), abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38], ids=str)
def test_row_that_is_not_finite_has_no_finite_sum_and_spoils_no_other(
    table: kernels.Kernels, bad: float
) -> None:
    words, _ = make_words(11, 150, 65)
    vocabulary = vocabulary_of(words, np.full(150, 10, np.float32))
    h = make_rows(11, 5, 65)
    clean = table.rank_tokens(vocabulary, h, 4)
    for place in (0, 31, 64):
        spoiled = h.copy()
        spoiled[2, place] = bad
        got = table.rank_tokens(vocabulary, spoiled, 4)
        assert not np.isfinite(got[2][2])
        others = [0, 1, 3, 4]
        for mine, theirs in zip(got, clean, strict=True):
            np.testing.assert_array_equal(mine[others], theirs[others])


def test_damaged_scale_makes_the_sum_not_finite(table: kernels.Kernels) -> None:
    words, scale = make_words(12, 150, 64)
    scale[77] = np.nan
    assert np.isnan(table.rank_tokens(vocabulary_of(words, scale), make_rows(12, 2, 64), 4)[2]).all()


def test_wrong_shapes_are_refused(table: kernels.Kernels) -> None:
    words, scale = make_words(13, 10, 16)
    with pytest.raises(ValueError, match=r"scale has shape \(9\), expected \(10\)"):
        vocabulary_of(words, scale[:9].copy())
    with pytest.raises(ValueError, match=r"h has shape \(1, 15\), expected \(any, 16\)"):
        table.rank_tokens(vocabulary_of(words, scale), np.zeros((1, 15), np.float32), 1)
