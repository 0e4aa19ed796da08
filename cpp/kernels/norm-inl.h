// Normalisation of a row: mean first, then the variance about it, so that nothing cancels. Gain and bias of a
// layer norm in front of a linear layer are part of that layer's weights; only the output layer's norm keeps
// its own.
#pragma once

#include <math.h>

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

constexpr std::size_t kNormChains = 4;  // sums side by side, which hides the latency of an addition

// The sum over a row of term(vector), whose lanes beyond the row's end count nothing. Vector v goes to chain
// v % kNormChains.
template <class Term>
KSERVE_INLINE float sum_of(const float* x, std::size_t n, Term term) {
  Vec sum[kNormChains];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kNormChains; ++i) sum[i] = Vec::zero();
  std::size_t at = 0;
  for (; at + kNormChains * kLanes <= n; at += kNormChains * kLanes) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kNormChains; ++i) sum[i] = term(Vec::load(x + at + i * kLanes), sum[i]);
  }
  for (std::size_t i = 0; at < n; ++i, at += kLanes) {
    const std::size_t lanes = n - at < kLanes ? n - at : kLanes;
    const Vec whole = lanes == kLanes ? Vec::load(x + at) : Vec::load_first(x + at, lanes);
    const Vec next = term(whole, sum[i]);
    sum[i] = lanes == kLanes ? next : next.first_or(lanes, sum[i]);
  }
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])).sum();
}

// mean of a row, and 1 / sqrt(variance + epsilon), biased variance.
KSERVE_INLINE void measure_row(const float* x, std::size_t n, float* mean, float* scale) {
  const auto count = static_cast<float>(n);
  *mean = sum_of(x, n, [](Vec v, Vec sum) { return sum + v; }) / count;
  const Vec centre = Vec::broadcast(*mean);
  const float squares = sum_of(x, n, [=](Vec v, Vec sum) {
    const Vec difference = v - centre;
    return Vec::fma(difference, difference, sum);
  });
  *scale = 1.0F / ::sqrtf(squares / count + kNormEpsilon);
}

void layer_norm(const float* x, std::size_t n, const float* gain, const float* bias, float* y) {
  float mean_of_row, scale_of_row;
  measure_row(x, n, &mean_of_row, &scale_of_row);
  const Vec mean = Vec::broadcast(mean_of_row), scale = Vec::broadcast(scale_of_row);
  for_each_vector(
      n,
      [=](std::size_t i) {
        const Vec unit = (Vec::load(x + i) - mean) * scale;
        (gain == nullptr ? unit : Vec::fma(unit, Vec::load(gain + i), Vec::load(bias + i))).store(y + i);
      },
      [=](std::size_t i, std::size_t lanes) {
        const Vec unit = (Vec::load_first(x + i, lanes) - mean) * scale;
        const auto load = [=](const float* p) { return Vec::load_first(p + i, lanes); };
        (gain == nullptr ? unit : Vec::fma(unit, load(gain), load(bias))).store_first(y + i, lanes);
      });
}

}  // namespace
}  // namespace kserve::kernels
