// The exponential, and what is made of it: softmax, the gated linear unit.
#pragma once

#include <math.h>

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

// exp(x) with a relative error below 2e-7; 0 below -87.3 (where the result would be subnormal), constant
// above 88.3, NaN for NaN. exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln(2) / 2 = 0.347, by Taylor's
// series of degree 7, whose rest is r^8 / 8! < 6e-9. ln 2 is taken in two parts, the first short enough for n
// times it to be exact.
KSERVE_INLINE Vec exponential(Vec x) {
  constexpr float kLowest = -87.3F;
  constexpr float kHighest = 88.3F;
  constexpr float kRound = 0x1.8p23F;  // added and taken away, it leaves the nearest integer
  constexpr float kLn2High = 0x1.62Ep-1F;
  constexpr float kLn2Low = 0x1.0BFBE8p-15F;
  constexpr float kSeries[] = {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F};
  const Vec bounded = Vec::min(Vec::broadcast(kHighest), Vec::max(Vec::broadcast(kLowest), x));
  const Vec round = Vec::broadcast(kRound);
  const Vec n = Vec::fma(bounded, Vec::broadcast(0x1.715476p0F), round) - round;
  Vec r = Vec::fma(n, Vec::broadcast(-kLn2High), bounded);
  r = Vec::fma(n, Vec::broadcast(-kLn2Low), r);
  Vec sum = Vec::broadcast(1.0F / 5040);
  KSERVE_UNROLL
  for (const float coefficient : kSeries) sum = Vec::fma(sum, r, Vec::broadcast(coefficient));
  return Vec::zero_below(x, kLowest, sum * Vec::power_of_two(n));
}

float largest(const float* x, std::size_t n) {
  Vec top = Vec::broadcast(-INFINITY);
  for_each_vector(
      n, [&](std::size_t i) { top = Vec::max(top, Vec::load(x + i)); },
      [&](std::size_t i, std::size_t lanes) {
        top = Vec::max(top, Vec::load_first(x + i, lanes).first_or(lanes, top));
      });
  return top.largest();
}

// Short rows stay in registers: kVectors vectors hold all of it.
template <std::size_t kVectors>
KSERVE_INLINE void softmax_short(const float* x, std::size_t n, float scale, float* y) {
  const std::size_t last = (kVectors - 1) * kLanes, lanes = n - last;
  const Vec factor = Vec::broadcast(scale);
  Vec v[kVectors];
  KSERVE_UNROLL
  for (std::size_t i = 0; i + 1 < kVectors; ++i) v[i] = Vec::load(x + i * kLanes) * factor;
  v[kVectors - 1] = Vec::load_first_or(x + last, lanes, Vec::broadcast(-INFINITY)) * factor;
  Vec top = v[0];
  KSERVE_UNROLL
  for (std::size_t i = 1; i < kVectors; ++i) top = Vec::max(top, v[i]);
  top = Vec::broadcast(top.largest());
  Vec sum = Vec::zero();
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kVectors; ++i) {
    v[i] = exponential(v[i] - top);
    sum = sum + v[i];
  }
  const Vec share = Vec::broadcast(1.0F / sum.sum());
  KSERVE_UNROLL
  for (std::size_t i = 0; i + 1 < kVectors; ++i) (v[i] * share).store(y + i * kLanes);
  if (lanes == kLanes) {
    (v[kVectors - 1] * share).store(y + last);
  } else {
    (v[kVectors - 1] * share).store_first(y + last, lanes);
  }
}

void softmax_long(const float* x, std::size_t n, float scale, float* y) {
  const Vec factor = Vec::broadcast(scale), top = Vec::broadcast(largest(x, n) * scale);
  Vec sum = Vec::zero();
  for_each_vector(
      n,
      [&](std::size_t i) {
        const Vec e = exponential(Vec::load(x + i) * factor - top);
        e.store(y + i);
        sum = sum + e;
      },
      [&](std::size_t i, std::size_t lanes) {
        const Vec e = exponential(Vec::load_first(x + i, lanes) * factor - top);
        e.store_first(y + i, lanes);
        sum = sum + e.first_or(lanes, Vec::zero());
      });
  const Vec share = Vec::broadcast(1.0F / sum.sum());
  for_each_vector(
      n, [=](std::size_t i) { (Vec::load(y + i) * share).store(y + i); },
      [=](std::size_t i, std::size_t lanes) {
        (Vec::load_first(y + i, lanes) * share).store_first(y + i, lanes);
      });
}

// y (n) = softmax(scale * x), scale > 0; y may be x.
KSERVE_INLINE void softmax_row(const float* x, std::size_t n, float scale, float* y) {
  if (n == 0) return;
  if (n <= kLanes) return softmax_short<1>(x, n, scale, y);
  if (n <= 2 * kLanes) return softmax_short<2>(x, n, scale, y);
  if (n <= 3 * kLanes) return softmax_short<3>(x, n, scale, y);
  softmax_long(x, n, scale, y);
}

// Not in place: a row ends in a store of some lanes, and a load that begins within a vector's length behind
// it, as the next row's would, waits until it has reached the cache.
inline void softmax(const float* x, std::size_t rows, std::size_t n, float* y) {
  for (std::size_t row = 0; row < rows; ++row) softmax_row(x + row * n, n, 1.0F, y + row * n);
}

// u * sigmoid(gate), sigmoid(gate) = 1 / (1 + exp(-gate)).
KSERVE_INLINE Vec gated(Vec u, Vec gate) {
  const Vec one = Vec::broadcast(1.0F);
  return u / (one + exponential(Vec::zero() - gate));
}

void glu(const float* u, std::size_t n, float* y) {
  for_each_vector(
      n, [=](std::size_t i) { gated(Vec::load(u + i), Vec::load(u + n + i)).store(y + i); },
      [=](std::size_t i, std::size_t lanes) {
        gated(Vec::load_first(u + i, lanes), Vec::load_first(u + n + i, lanes)).store_first(y + i, lanes);
      });
}

}  // namespace
}  // namespace kserve::kernels
