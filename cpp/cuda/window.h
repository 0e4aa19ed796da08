// The arithmetic of one pass on eight numbers in registers: forward, transposed, and the twiddles' gradient.
#pragma once

#include "schedule.h"

namespace kserve::cuda {

// The 2x2 blocks of a group's pairs in the three factors of a pass, or their gradients.
struct Twiddles {
  Quad of[kLevels][kPairs];
};

// First twiddle of factor `level` of a butterfly; a factor has n / 2 pairs of four numbers.
KSERVE_BOTH int factor_offset(const Cut& cut, int block, int level) {
  return (block * cut.log_n + level) << (cut.log_n + 1);
}

// Calls body(bit of the pass, pair of the group, offset into the twiddles) for each pair that exists: sizes
// below eight have fewer. `group` is counted in the whole row.
template <class Body>
KSERVE_DEVICE void for_each_pair(const Cut& cut, const Pass& pass, int group, Body body) {
  const int first = first_pair(group, pass.low), half = 1 << (cut.log_n - 1);
  KSERVE_UNROLLED
  for (int bit = 0; bit < kLevels; ++bit) {
    if (!(pass.active >> bit & 1)) continue;
    const int factor = factor_offset(cut, pass.block, pass.low + bit);
    KSERVE_UNROLLED
    for (int pair = 0; pair < kPairs; ++pair) {
      const int at = first + (pair << pass.low);
      if (at < half) body(bit, pair, factor + 4 * at);
    }
  }
}

template <class W>
KSERVE_DEVICE Twiddles load_twiddles(const Cut& cut, const Pass& pass, int group, const W* twiddle) {
  Twiddles result = {};
  for_each_pair(cut, pass, group,
                [&](int bit, int pair, int at) { result.of[bit][pair] = load_constant_quad(twiddle + at); });
  return result;
}

// One factor on a group.
template <int kBit>
KSERVE_DEVICE void apply(const Twiddles& t, float (&x)[kGroup]) {
  KSERVE_UNROLLED
  for (int pair = 0; pair < kPairs; ++pair) {
    const int low = lower_member(pair, kBit), high = low | 1 << kBit;
    const Quad& block = t.of[kBit][pair];
    const float upper = fma(block.y, x[high], block.x * x[low]);
    x[high] = fma(block.w, x[high], block.z * x[low]);
    x[low] = upper;
  }
}

// The same factor backward: `sum` gets the gradient of its twiddles, whose input was x; g becomes the
// gradient of that input.
template <int kBit>
KSERVE_DEVICE void apply_backward(const Twiddles& t, const float (&x)[kGroup], float (&g)[kGroup],
                                  Twiddles& sum) {
  KSERVE_UNROLLED
  for (int pair = 0; pair < kPairs; ++pair) {
    const int low = lower_member(pair, kBit), high = low | 1 << kBit;
    const Quad& block = t.of[kBit][pair];
    Quad& into = sum.of[kBit][pair];
    into.x = fma(g[low], x[low], into.x);
    into.y = fma(g[low], x[high], into.y);
    into.z = fma(g[high], x[low], into.z);
    into.w = fma(g[high], x[high], into.w);
    const float upper = fma(block.z, g[high], block.x * g[low]);
    g[high] = fma(block.w, g[high], block.y * g[low]);
    g[low] = upper;
  }
}

template <int kFirst, int kSecond, int kThird>
KSERVE_DEVICE void apply_three(int active, const Twiddles& t, float (&x)[kGroup]) {
  if (active >> kFirst & 1) apply<kFirst>(t, x);
  if (active >> kSecond & 1) apply<kSecond>(t, x);
  if (active >> kThird & 1) apply<kThird>(t, x);
}

// The inputs of the three factors are computed again from x, that of the first.
template <int kFirst, int kSecond, int kThird>
KSERVE_DEVICE void apply_three_backward(int active, const Twiddles& t, const float (&x)[kGroup],
                                        float (&g)[kGroup], Twiddles& sum) {
  float second[kGroup], third[kGroup];
  KSERVE_UNROLLED
  for (int j = 0; j < kGroup; ++j) second[j] = x[j];
  if (active >> kFirst & 1) apply<kFirst>(t, second);
  KSERVE_UNROLLED
  for (int j = 0; j < kGroup; ++j) third[j] = second[j];
  if (active >> kSecond & 1) apply<kSecond>(t, third);
  if (active >> kThird & 1) apply_backward<kThird>(t, third, g, sum);
  if (active >> kSecond & 1) apply_backward<kSecond>(t, second, g, sum);
  if (active >> kFirst & 1) apply_backward<kFirst>(t, x, g, sum);
}

KSERVE_DEVICE void apply_pass(const Pass& pass, const Twiddles& t, float (&x)[kGroup]) {
  if (pass.rising) {
    apply_three<0, 1, 2>(pass.active, t, x);
  } else {
    apply_three<2, 1, 0>(pass.active, t, x);
  }
}

KSERVE_DEVICE void apply_pass_backward(const Pass& pass, const Twiddles& t, const float (&x)[kGroup],
                                       float (&g)[kGroup], Twiddles& sum) {
  if (pass.rising) {
    apply_three_backward<0, 1, 2>(pass.active, t, x, g, sum);
  } else {
    apply_three_backward<2, 1, 0>(pass.active, t, x, g, sum);
  }
}

}  // namespace kserve::cuda
