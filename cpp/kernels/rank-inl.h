// The output layer, fused with what is made of its logits: for every hidden row the best tokens and the
// log-sum-exp over the vocabulary, without an array of all logits.
//
// A hidden row becomes codes of 16 bits: h ~ step * code. Sums of codes times int8 numbers are exact, so a
// logit made of one differs from the true one by the rounding of h alone, at most reach * step / 2, and from
// token_logit's by its rounding besides. A token whose logit could reach the worst of the tokens taken so far
// is computed again by token_logit: hence the choice is the one that token_logit's logits give.
#pragma once

#include <math.h>

#include <cstring>

#include KSERVE_CODES  // set by the isa_*.cpp that is being compiled

#include "kernels/softmax-inl.h"

namespace kserve::kernels {
namespace {

constexpr std::size_t kRankChunk = 64;  // tokens at a time: their table rows stay in the first-level cache
constexpr std::size_t kRankTokens = 4;  // tokens whose sums are built together
constexpr std::size_t kRankTotals = kRankChunk + kLanes;
// Hidden rows of smaller numbers take this for their largest one: its step is far from underflow.
constexpr float kLeastLargest = 0x1p-100F;

// One hidden row between chunks.
struct RankRow {
  alignas(64) float sum[kLanes];  // of exp(logit - top), lane by lane
  float top;                      // largest logit so far
  float slack;                    // logits differ from token_logit's by at most reach * slack
  float step;                     // what a code of 1 stands for
  float threshold;                // only a larger logit is taken
  std::size_t found;              // tokens taken
  std::size_t top_token;          // whose logit `top` is
};
static_assert(sizeof(RankRow) <= kRankRowBytes && kCodePadding % CodeSum::kBlock == 0);

struct RankCall {
  const Vocabulary& vocabulary;
  const float* h;
  const Ranking& ranking;
  RankRow* rows;
  std::int16_t* codes;  // (rows, padded)
  std::size_t padded;   // n rounded up to a multiple of kCodePadding
};

// Tokens first ... first + count - 1.
struct RankSpan {
  std::size_t first, count;
};

float token_logit(const Vocabulary& vocabulary, std::size_t token, const float* h) {
  const std::int8_t* row = vocabulary.table + token * vocabulary.n;
  Vec sum = Vec::zero();
  for_each_vector(
      vocabulary.n, [&](std::size_t i) { sum = Vec::fma(Vec::load_int8(row + i), Vec::load(h + i), sum); },
      [&](std::size_t i, std::size_t lanes) {
        sum = Vec::fma(Vec::load_int8_first(row + i, lanes), Vec::load_first(h + i, lanes), sum);
      });
  return sum.sum() * vocabulary.scale[token];
}

// The largest code: 16 bits, and its sum with n numbers of at most 128 must fit 32 bits.
std::size_t largest_code(std::size_t n) {
  const std::size_t fits = ((std::size_t{1} << 31) - 1) / (128 * n);
  return fits < 32767 ? fits : 32767;
}

// The largest |h|, or NaN when a number of h is not finite.
float largest_magnitude(const float* h, std::size_t n) {
  Vec top = Vec::zero(), probe = Vec::zero();  // probe: NaN once a number times 0 is not 0
  const auto take = [&](Vec x) {
    top = Vec::max(top, Vec::max(x, Vec::zero() - x));
    probe = Vec::fma(x, Vec::zero(), probe);
  };
  for_each_vector(
      n, [&](std::size_t i) { take(Vec::load(h + i)); },
      [&](std::size_t i, std::size_t lanes) { take(Vec::load_first(h + i, lanes)); });
  return probe.sum() == 0.0F ? top.largest() : NAN;
}

// Codes of one row and an empty state. A row that is not finite has codes of 0 and a top of NaN, which makes
// its log-sum-exp NaN.
void start_row(const RankCall& call, std::size_t row) {
  constexpr float kRound = 0x1.8p23F;  // added and taken away, it leaves the nearest integer
  const std::size_t n = call.vocabulary.n;
  const float* h = call.h + row * n;
  const float magnitude = largest_magnitude(h, n);
  const bool finite = magnitude == magnitude;
  const float largest = magnitude > kLeastLargest ? magnitude : kLeastLargest;
  const auto limit = static_cast<float>(largest_code(n));
  std::int16_t* codes = call.codes + row * call.padded;
  const float inverse = limit / largest;
  for (std::size_t i = 0; i < n; ++i) {
    codes[i] = finite ? static_cast<std::int16_t>(h[i] * inverse + kRound - kRound) : std::int16_t{0};
  }
  for (std::size_t i = n; i < call.padded; ++i) codes[i] = CodeSum::kPadding;
  CodeSum::arrange(codes, call.padded);
  RankRow& state = call.rows[row];
  Vec::zero().store(state.sum);
  state.top = finite ? -INFINITY : NAN;
  state.step = largest / limit;
  // Half a step, then the roundings, each at most 2^-24 of reach * largest |h|: n / 16 + 7 in token_logit, 9
  // in making codes and logits and comparing; twice as many are allowed for.
  const float roundings = 0x1p-24F * limit * (static_cast<float>(n) / 16 + 32);
  state.slack = state.step * (0.5F + roundings) * 1.0001F;
  state.threshold = call.ranking.count > 0 ? -INFINITY : INFINITY;
  state.found = 0;
  state.top_token = 0;
}

// totals (kRows, kRankTotals), kRankTokens of them in each row: codes times table rows `stride` apart.
template <std::size_t kRows>
KSERVE_INLINE void code_tile(const RankCall& call, const std::int8_t* table, std::size_t stride,
                             const std::int16_t* codes, std::int32_t* totals) {
  const std::size_t n = call.vocabulary.n;
  CodeSum sum[kRows][kRankTokens];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kRows * kRankTokens; ++i)
    sum[i / kRankTokens][i % kRankTokens] = CodeSum::zero();
  const auto add = [&](std::size_t i, auto load) {
    CodeSum::Codes code[kRows];
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) code[r] = CodeSum::Codes::load(codes + r * call.padded + i);
    KSERVE_UNROLL
    for (std::size_t t = 0; t < kRankTokens; ++t) {
      const CodeSum::Numbers numbers = load(table + t * stride + i);
      KSERVE_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) sum[r][t].add(numbers, code[r]);
    }
  };
  std::size_t i = 0;
  for (; i + CodeSum::kBlock <= n; i += CodeSum::kBlock) add(i, CodeSum::Numbers::load);
  if (i < n) add(i, [=](const std::int8_t* p) { return CodeSum::Numbers::load_first(p, n - i); });
  KSERVE_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) CodeSum::four_totals(sum[r], totals + r * kRankTotals);
}

bool is_barred(const Ranking& ranking, std::int32_t id) {
  for (std::size_t i = 0; i < ranking.barred_count; ++i) {
    if (ranking.barred[i] == id) return true;
  }
  return false;
}

// Puts a token among the best of its row. Ids come in ascending order, so a later equal one goes behind.
void take_token(const RankCall& call, std::size_t row, std::size_t token, float logit) {
  const std::size_t wanted = call.ranking.count;
  RankRow& state = call.rows[row];
  std::int32_t* ids = call.ranking.ids + row * wanted;
  float* logits = call.ranking.logits + row * wanted;
  const auto id = static_cast<std::int32_t>(token);
  const float worst = state.found < wanted ? -INFINITY : logits[wanted - 1];
  if (!(logit > worst) || is_barred(call.ranking, id)) return;
  std::size_t place = state.found < wanted ? state.found++ : wanted - 1;
  for (; place > 0 && logits[place - 1] < logit; --place) {
    ids[place] = ids[place - 1];
    logits[place] = logits[place - 1];
  }
  ids[place] = id;
  logits[place] = logit;
  // What is below 2^-110 may be lost to underflow, which `slack` does not count.
  if (state.found == wanted) state.threshold = logits[wanted - 1] - 0x1p-110F;
}

// Computes exactly, and offers, every token of the span that might be among the best. `logits` stay as they
// are: which tokens are looked at depends on how many are wanted, and the log-sum-exp must not.
void rescore(const RankCall& call, const RankSpan& span, std::size_t row, const float* logits) {
  const Vocabulary& vocabulary = call.vocabulary;
  const RankRow& state = call.rows[row];
  const float* reach = vocabulary.reach + span.first;
  const auto might_be_among = [&](std::size_t i) {
    return logits[i] + reach[i] * state.slack > state.threshold;
  };
  const auto each = [&](std::size_t i, std::size_t lanes) {
    for (const std::size_t end = i + lanes; i < end; ++i) {
      if (!might_be_among(i)) continue;
      take_token(call, row, span.first + i,
                 token_logit(vocabulary, span.first + i, call.h + row * vocabulary.n));
    }
  };
  for_each_vector(
      span.count,
      [&](std::size_t i) {
        const Vec upper = Vec::fma(Vec::load(reach + i), Vec::broadcast(state.slack), Vec::load(logits + i));
        if (Vec::any_above(upper, Vec::broadcast(state.threshold))) each(i, kLanes);
      },
      each);
}

// Adds `vectors` * 16 logits of tokens from `first` on to the row's sum of exponentials, which is scaled anew
// when they hold a new top.
void add_exponentials(RankRow& state, std::size_t first, const float* logits, std::size_t vectors) {
  Vec best = Vec::broadcast(state.top);
  for (std::size_t v = 0; v < vectors; ++v) best = Vec::max(Vec::load(logits + v * kLanes), best);
  Vec sum = Vec::load(state.sum);
  if (Vec::any_above(best, Vec::broadcast(state.top))) {
    const float top = best.largest();
    sum = sum * exponential(Vec::broadcast(state.top) - Vec::broadcast(top));
    state.top = top;
    state.top_token = first;
    for (const float* logit = logits; *logit != top; ++logit) ++state.top_token;
  }
  for (std::size_t v = 0; v < vectors; ++v) {
    sum = sum + exponential(Vec::load(logits + v * kLanes) - Vec::broadcast(state.top));
  }
  sum.store(state.sum);
}

// Takes one row through a span whose integer totals are known. totals (kRankTotals); those after the span's
// are overwritten.
void rank_span(const RankCall& call, const RankSpan& span, std::size_t row, std::int32_t* totals) {
  const Vocabulary& vocabulary = call.vocabulary;
  const float* scale = vocabulary.scale + span.first;
  const float* reach = vocabulary.reach + span.first;
  RankRow& state = call.rows[row];
  if constexpr (CodeSum::kOffset) {
    for (std::size_t i = 0; i < span.count; ++i) {
      totals[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(totals[i]) +
                                            static_cast<std::uint32_t>(vocabulary.offset[span.first + i]));
    }
  }
  alignas(64) float logits[kRankChunk];
  const Vec step = Vec::broadcast(state.step), slack = Vec::broadcast(state.slack);
  const Vec nothing = Vec::broadcast(-INFINITY);
  Vec upper = nothing;
  for_each_vector(
      span.count,
      [&](std::size_t i) {
        const Vec logit = Vec::from_ints(totals + i) * (Vec::load(scale + i) * step);
        logit.store(logits + i);
        upper = Vec::max(Vec::fma(Vec::load(reach + i), slack, logit), upper);
      },
      [&](std::size_t i, std::size_t lanes) {
        std::memset(totals + i + lanes, 0, (kLanes - lanes) * sizeof *totals);
        const Vec logit = Vec::from_ints(totals + i) * (Vec::load_first(scale + i, lanes) * step);
        logit.first_or(lanes, nothing).store(logits + i);
        const Vec bound = Vec::fma(Vec::load_first(reach + i, lanes), slack, logit);
        upper = Vec::max(bound.first_or(lanes, nothing), upper);
      });
  if (Vec::any_above(upper, Vec::broadcast(state.threshold))) rescore(call, span, row, logits);
  add_exponentials(state, span.first, logits, (span.count + kLanes - 1) / kLanes);
}

// A span for kRows rows from `row` on.
template <std::size_t kRows>
void rank_rows(const RankCall& call, const RankSpan& span, std::size_t row) {
  alignas(64) std::int32_t totals[kRows * kRankTotals];
  const std::size_t n = call.vocabulary.n;
  const std::int8_t* table = call.vocabulary.table + span.first * n;
  const std::int16_t* codes = call.codes + row * call.padded;
  std::size_t t = 0;
  for (; t + kRankTokens <= span.count; t += kRankTokens) {
    code_tile<kRows>(call, table + t * n, n, codes, totals + t);
  }
  // The last ones of the vocabulary alone: stride 0 computes the same token four times.
  for (; t < span.count; ++t) code_tile<kRows>(call, table + t * n, 0, codes, totals + t);
  for (std::size_t r = 0; r < kRows; ++r) rank_span(call, span, row + r, totals + r * kRankTotals);
}

// The largest logit outweighs the errors of all the others: its own exponential, 1 in the sum, is put right.
// NaN stays.
float corrected_log_sum(const RankRow& state, float exact) {
  const double top = static_cast<double>(state.top), right = static_cast<double>(exact);
  const double others = static_cast<double>(Vec::load(state.sum).sum()) - 1.0;
  const double base = right > top ? right : top;
  const double sum = others * ::exp(top - base) + ::exp(right - base);
  return !(sum <= 0.0) ? static_cast<float>(base + ::log(sum)) : exact;
}

void finish_row(const RankCall& call, std::size_t row) {
  const RankRow& state = call.rows[row];
  const bool finite = state.top - state.top == 0.0F;
  call.ranking.log_sum_exp[row] =
      finite ? corrected_log_sum(
                   state, token_logit(call.vocabulary, state.top_token, call.h + row * call.vocabulary.n))
             : state.top;
  for (std::size_t i = state.found; i < call.ranking.count; ++i) {
    call.ranking.ids[row * call.ranking.count + i] = -1;
    call.ranking.logits[row * call.ranking.count + i] = -INFINITY;
  }
}

void rank_tokens(const Vocabulary& vocabulary, const float* h, std::size_t rows, const Ranking& ranking,
                 void* scratch) {
  RankCall call{vocabulary, h, ranking, static_cast<RankRow*>(scratch), nullptr, 0};
  call.padded = (vocabulary.n + kCodePadding - 1) / kCodePadding * kCodePadding;
  call.codes = reinterpret_cast<std::int16_t*>(static_cast<char*>(scratch) + rows * kRankRowBytes);
  for (std::size_t row = 0; row < rows; ++row) start_row(call, row);
  for (std::size_t first = 0; first < vocabulary.size; first += kRankChunk) {
    const std::size_t left = vocabulary.size - first;
    const RankSpan span{first, left < kRankChunk ? left : kRankChunk};
    std::size_t row = 0;
    for (; row + CodeSum::kRows <= rows; row += CodeSum::kRows) rank_rows<CodeSum::kRows>(call, span, row);
    for (; row < rows; ++row) rank_rows<1>(call, span, row);
  }
  for (std::size_t row = 0; row < rows; ++row) finish_row(call, row);
}

}  // namespace
}  // namespace kserve::kernels
