// The output layer, fused with what is made of its logits: for every hidden row the best tokens and the
// log-sum-exp over the vocabulary, without an array of all logits.
//
// A hidden row becomes codes of 8 bits, h = step * code + rest. Sums of codes times int8 numbers are exact,
// so a logit made of them differs from the true one by the table row times the rest: at most the product of
// their lengths (Cauchy and Schwarz), and from token_logit's by its rounding besides. With these bounds a few
// candidates are left (candidates-inl.h), which token_logit computes: hence the choice is the one that
// token_logit's logits give.
#pragma once

#include <math.h>

#include "kernels/candidates-inl.h"
#include "kernels/dot-inl.h"

namespace kserve::kernels {
namespace {

constexpr float kLog2E = 0x1.715476p0F;
// Largest power of 2 that a term of the sum may be before the sum is scaled anew: far from overflow.
constexpr float kHighestPower = 60.0F;

// One hidden row between chunks of the vocabulary. Near logits are in units of the row's step.
struct RankRow {
  alignas(64) float sum[kLanes];  // of 2^(power * near logit - origin), lane by lane
  float step;   // what a code of 1 stands for; 0 when the row is 0, NaN when it is not finite
  float power;  // step * log2(e)
  float origin;
  float slack;  // near logits differ from token_logit's by at most reach * slack
  Candidates candidates;
};
static_assert(sizeof(RankRow) <= kRankRowBytes);

struct RankCall {
  const Vocabulary& vocabulary;
  const float* h;
  const Ranking& ranking;
  RankRow* states;
  std::int8_t* codes;    // (rows rounded up, groups * 4)
  std::int32_t* totals;  // (rows rounded up, kDotOutputs)

  const float* row(std::size_t r) const { return h + r * vocabulary.n; }
};

// Tokens first ... first + count - 1, whole panels but for the vocabulary's end.
struct RankSpan {
  std::size_t first, count;
};

// The sum runs in kLogitChains chains: vector v goes to chain v % kLogitChains.
constexpr std::size_t kLogitChains = 4;

float token_logit(const Vocabulary& vocabulary, std::size_t token, const float* h) {
  const std::int8_t* numbers = vocabulary.row(token);
  constexpr std::size_t kBlock = kLogitChains * kLanes;
  Vec sum[kLogitChains];
  KSERVE_UNROLL
  for (std::size_t c = 0; c < kLogitChains; ++c) sum[c] = Vec::zero();
  std::size_t at = 0;
  for (; at + kBlock <= vocabulary.n; at += kBlock) {
    KSERVE_UNROLL
    for (std::size_t c = 0; c < kLogitChains; ++c) {
      const std::size_t i = at + c * kLanes;
      sum[c] = Vec::fma(Vec::load_int8(numbers + i), Vec::load(h + i), sum[c]);
    }
  }
  for (std::size_t c = 0; at < vocabulary.n; ++c, at += kLanes) {
    const std::size_t left = vocabulary.n - at;
    sum[c] = left >= kLanes
                 ? Vec::fma(Vec::load_int8(numbers + at), Vec::load(h + at), sum[c])
                 : Vec::fma(Vec::load_int8_first(numbers + at, left), Vec::load_first(h + at, left), sum[c]);
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum() * vocabulary.scale[token];
}

void embed(const std::int8_t* numbers, std::size_t n, float scale, const float* position, float* y) {
  const Vec factor = Vec::broadcast(scale);
  for_each_vector(
      n,
      [=](std::size_t i) {
        Vec::fma(Vec::load_int8(numbers + i), factor, Vec::load(position + i)).store(y + i);
      },
      [=](std::size_t i, std::size_t lanes) {
        const Vec row = Vec::load_int8_first(numbers + i, lanes);
        Vec::fma(row, factor, Vec::load_first(position + i, lanes)).store_first(y + i, lanes);
      });
}

// 2^x to a ten-thousandth, for x up to kHighestPower: the sum is no better known. 2^x = 2^n 2^f, |f| <= 1/2,
// and the polynomial is the one of degree 3 whose largest relative error there is least (7.5e-5). Below
// 2^-126 it stays.
KSERVE_INLINE Vec near_power_of_two(Vec x) {
  const Vec round = Vec::broadcast(kToNearest);
  const Vec bounded = Vec::max(Vec::broadcast(-126.0F), x);
  const Vec rounded = bounded + round;
  const Vec f = bounded - (rounded - round);
  Vec p = Vec::fma(Vec::broadcast(0x1.c3f76p-5F), f, Vec::broadcast(0x1.f0de1ap-3F));
  p = Vec::fma(p, f, Vec::broadcast(0x1.62f31ap-1F));
  p = Vec::fma(p, f, Vec::broadcast(0x1.fff692p-1F));
  return Vec::scaled_by(p, rounded);
}

// The length of h, and that of what its codes leave out, both a little too large.
void measure_rest(const float* h, std::size_t n, const CodeScale& scale, float* length, float* rest) {
  const Vec inverse = Vec::broadcast(scale.inverse), step = Vec::broadcast(-scale.step);
  const Vec round = Vec::broadcast(kToNearest);
  Vec whole = Vec::zero(), left = Vec::zero();
  const auto add = [&](Vec x) {
    const Vec difference = Vec::fma(step, x * inverse + round - round, x);
    whole = Vec::fma(x, x, whole);
    left = Vec::fma(difference, difference, left);
  };
  for_each_vector(
      n, [&](std::size_t i) { add(Vec::load(h + i)); },
      [&](std::size_t i, std::size_t lanes) { add(Vec::load_first(h + i, lanes)); });
  const float wider = 1.0F + static_cast<float>(n) * 0x1p-22F;  // n roundings of a sum, and some
  *length = ::sqrtf(whole.sum()) * wider;
  *rest = ::sqrtf(left.sum()) * wider;
}

// Codes of one row and an empty state.
void start_row(const RankCall& call, std::size_t row, char* memory) {
  const std::size_t n = call.vocabulary.n, padded = byte_groups(n) * kBytesPerLane;
  std::int8_t* codes = call.codes + row * padded;
  RankRow& state = call.states[row];
  const CodeScale scale = to_codes(call.row(row), n, padded, codes);
  state.step = scale.step;
  state.power = state.step * kLog2E;
  state.origin = 0.0F;
  state.slack = 0.0F;
  if (state.step > 0.0F) {
    float length, rest;
    measure_rest(call.row(row), n, scale, &length, &rest);
    // Roundings, each at most 2^-24 of the product of lengths: n / 16 + 7 in token_logit, 9 in making codes
    // and logits and comparing, n in the rest's own sum; twice as many are allowed for.
    state.slack = (rest + length * 0x1p-24F * (static_cast<float>(n) / 8 + 64)) / state.step;
  }
  Vec::zero().store(state.sum);
  state.candidates.start(memory, ranked_tokens(call.ranking.count));
}

bool is_barred(const Ranking& ranking, std::int32_t id) {
  for (std::size_t i = 0; i < ranking.barred_count; ++i) {
    if (ranking.barred[i] == id) return true;
  }
  return false;
}

// Puts the row's candidates, computed exactly, into candidates.best; returns how many of those wanted there
// are.
std::size_t compute_best(const RankCall& call, std::size_t row) {
  const Candidates& all = call.states[row].candidates;
  std::size_t found = 0;
  for (std::size_t i = 0; i < all.count; ++i) {
    Candidate one = all.list[i];
    if (!all.may_be_best(one)) continue;
    if (!one.is_exact()) {
      one.logit = token_logit(call.vocabulary, static_cast<std::size_t>(one.id), call.row(row));
    }
    // Ids come in ascending order, so a later equal one goes behind.
    if (found == all.wanted && !(one.logit > all.best[found - 1].logit)) continue;
    std::size_t place = found < all.wanted ? found++ : all.wanted - 1;
    for (; place > 0 && all.best[place - 1].logit < one.logit; --place) all.best[place] = all.best[place - 1];
    all.best[place] = one;
  }
  return found;
}

// Room for more candidates: drops those that better ones have overtaken. Where too few are, computes the rest
// and keeps the best, again in ascending order of ids.
void make_room(const RankCall& call, std::size_t row) {
  const RankRow& state = call.states[row];
  Candidates& all = call.states[row].candidates;
  all.drop_overtaken();
  if (all.count <= all.room / 2) return;
  const std::size_t found = compute_best(call, row);
  for (std::size_t i = 1; i < found; ++i) {
    const Candidate one = all.best[i];
    std::size_t place = i;
    for (; place > 0 && all.best[place - 1].id > one.id; --place) all.best[place] = all.best[place - 1];
    all.best[place] = one;
  }
  all.clear();
  for (std::size_t i = 0; i < found; ++i) {
    all.best[i].highest = state.step > 0.0F ? all.best[i].logit / state.step : 0.0F;
    all.add(all.best[i], all.best[i].highest);
  }
}

// Near logits of some panels, and the highest possible ones.
struct SpanLogits {
  Vec near[kDotPanels], highest[kDotPanels];
};

// Keeps every token of the span that might be among the best, and moves the sum's origin where a term would
// become too large. The first span is all kept.
void keep_candidates(const RankCall& call, const RankSpan& span, std::size_t row, const SpanLogits& logits) {
  RankRow& state = call.states[row];
  float largest = -INFINITY;
  for (std::size_t v = 0; v < panels_of(span.count); ++v) {
    const std::size_t first = span.first + v * kLanes;
    std::uint32_t above = Vec::above(logits.highest[v], Vec::broadcast(state.candidates.threshold));
    if (span.count - v * kLanes < kLanes) above &= (1U << (span.count - v * kLanes)) - 1;
    if (above == 0) continue;
    alignas(64) float near[kLanes];
    logits.near[v].store(near);
    for (; above != 0; above &= above - 1) {
      const auto lane = static_cast<std::size_t>(__builtin_ctz(above));
      const auto id = static_cast<std::int32_t>(first + lane);
      const float bound = call.vocabulary.reach[first + lane] * state.slack;
      largest = near[lane] > largest ? near[lane] : largest;
      if (!(near[lane] + bound > state.candidates.threshold) || is_barred(call.ranking, id)) continue;
      if (state.candidates.is_full()) make_room(call, row);
      state.candidates.add({id, near[lane], near[lane] + bound, kNotExact}, near[lane] - bound);
    }
  }
  const float power = largest * state.power;
  if (span.first > 0 && !(power > state.origin + kHighestPower)) return;
  const Vec scale = near_power_of_two(Vec::broadcast(state.origin - power));
  (span.first > 0 ? Vec::load(state.sum) * scale : Vec::zero()).store(state.sum);
  state.origin = power;
}

// Takes one row through a span whose totals are known; those behind the span's end, in its last panel, are 0.
void rank_span(const RankCall& call, const RankSpan& span, std::size_t row, const std::int32_t* totals) {
  const float* scale = call.vocabulary.scale + span.first;
  const float* reach = call.vocabulary.reach + span.first;
  RankRow& state = call.states[row];
  const Vec slack = Vec::broadcast(state.slack);
  const std::size_t vectors = panels_of(span.count);
  SpanLogits logits;
  Vec highest = Vec::broadcast(-INFINITY);
  for (std::size_t v = 0; v < vectors; ++v) {
    logits.near[v] = Vec::from_ints(totals + v * kLanes) * Vec::load(scale + v * kLanes);
    logits.highest[v] = Vec::fma(Vec::load(reach + v * kLanes), slack, logits.near[v]);
    highest = Vec::max(logits.highest[v], highest);
  }
  if (span.first == 0 || Vec::any_above(highest, Vec::broadcast(state.candidates.threshold))) {
    keep_candidates(call, span, row, logits);
  }
  const Vec power = Vec::broadcast(state.power), origin = Vec::broadcast(-state.origin);
  Vec sum = Vec::load(state.sum);
  for (std::size_t v = 0; v < vectors; ++v) {
    const Vec term = near_power_of_two(Vec::fma(logits.near[v], power, origin));
    const std::size_t lanes = span.count - v * kLanes;
    sum = sum + (lanes >= kLanes ? term : term.first_or(lanes, Vec::zero()));
  }
  sum.store(state.sum);
}

// The terms of the largest logits outweigh the errors of all the others: these few are put right.
float corrected_log_sum(const RankRow& state, std::size_t found) {
  constexpr double kLn2 = 0.6931471805599453;
  // Where a float cannot tell logits a quarter apart, the largest one is all that counts.
  constexpr float kHuge = 0x1p22F;
  const Candidate* const best = state.candidates.best;
  if (best[0].logit > kHuge || best[0].logit < -kHuge) return best[0].logit;
  const double origin = static_cast<double>(state.origin) * kLn2;
  double others = static_cast<double>(Vec::load(state.sum).sum()), right = 0.0;
  const double top = static_cast<double>(best[0].logit), base = top > origin ? top : origin;
  for (std::size_t i = 0; i < found && i < kRightTerms; ++i) {
    others -= ::exp(static_cast<double>(best[i].near) * static_cast<double>(state.step) - origin);
    right += ::exp(static_cast<double>(best[i].logit) - base);
  }
  const double rest = others < 0.0 ? 0.0 : others * ::exp(origin - base);  // NaN stays
  return static_cast<float>(base + ::log(rest + right));
}

void finish_row(const RankCall& call, std::size_t row) {
  const RankRow& state = call.states[row];
  const std::size_t wanted = call.ranking.count;
  const bool finite = state.step == state.step;
  const std::size_t found = finite ? compute_best(call, row) : 0;
  call.ranking.log_sum_exp[row] = found > 0 ? corrected_log_sum(state, found) : NAN;
  for (std::size_t i = 0; i < wanted; ++i) {
    const bool exists = i < found;
    call.ranking.ids[row * wanted + i] = exists ? state.candidates.best[i].id : -1;
    call.ranking.logits[row * wanted + i] = exists ? state.candidates.best[i].logit : -INFINITY;
  }
}

void rank_tokens(const Vocabulary& vocabulary, const float* h, std::size_t rows, const Ranking& ranking,
                 void* scratch) {
  const RankMemory memory = rank_memory(vocabulary.n, rows, ranking.count);
  auto* const bytes = static_cast<char*>(scratch);
  const RankCall call{vocabulary,
                      h,
                      ranking,
                      reinterpret_cast<RankRow*>(bytes),
                      reinterpret_cast<std::int8_t*>(bytes + memory.codes),
                      reinterpret_cast<std::int32_t*>(bytes + memory.totals)};
  for (std::size_t row = 0; row < rows; ++row) {
    start_row(call, row, bytes + memory.candidates + row * memory.candidate_bytes);
  }
  const DotCall dot{vocabulary.panels, vocabulary.offset, call.codes, byte_groups(vocabulary.n)};
  Tiles::begin();
  for (std::size_t first = 0; first < vocabulary.size; first += kDotOutputs) {
    const std::size_t left = vocabulary.size - first;
    const RankSpan span{first, left < kDotOutputs ? left : kDotOutputs};
    dot_panels(dot, first / kLanes, panels_of(span.count), rows, call.totals);
    for (std::size_t row = 0; row < rows; ++row) rank_span(call, span, row, call.totals + row * kDotOutputs);
  }
  Tiles::end();
  for (std::size_t row = 0; row < rows; ++row) finish_row(call, row);
}

}  // namespace
}  // namespace kserve::kernels
