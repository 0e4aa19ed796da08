// Dynamic convolution of one row: each head has its own taps, shared by the head's channels.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

KSERVE_INLINE Vec load_number(const float* p) { return Vec::load(p); }
KSERVE_INLINE Vec load_number(const std::uint16_t* p) { return Vec::load_half(p); }
KSERVE_INLINE Vec load_number_first(const float* p, std::size_t n) { return Vec::load_first(p, n); }
KSERVE_INLINE Vec load_number_first(const std::uint16_t* p, std::size_t n) {
  return Vec::load_half_first(p, n);
}

// Vectors of channels taken together: each is one long chain of additions, several hide its latency.
constexpr std::size_t kConvolveVectors = Vec::kRegs <= 2 ? 4 : 1;

// y (16 * kCount) = the sum over taps, in their order, of shares[j] times window[j] from channel `first` on.
template <std::size_t kCount, class Number>
KSERVE_INLINE void convolve(const Number* const* window, const float* shares, std::size_t taps,
                            std::size_t first, float* y) {
  Vec sum[kCount];
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kCount; ++v) sum[v] = Vec::zero();
  for (std::size_t j = 0; j < taps; ++j) {
    if (window[j] == nullptr) continue;
    const Vec share = Vec::broadcast(shares[j]);
    const Number* const row = window[j] + first;
    KSERVE_UNROLL
    for (std::size_t v = 0; v < kCount; ++v) sum[v] = Vec::fma(share, load_number(row + v * kLanes), sum[v]);
  }
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kCount; ++v) sum[v].store(y + first + v * kLanes);
}

// The same for the last channels of a head, fewer than 16.
template <class Number>
KSERVE_INLINE void convolve_last(const Number* const* window, const float* shares, std::size_t taps,
                                 std::size_t first, std::size_t lanes, float* y) {
  Vec sum = Vec::zero();
  for (std::size_t j = 0; j < taps; ++j) {
    if (window[j] == nullptr) continue;
    sum = Vec::fma(Vec::broadcast(shares[j]), load_number_first(window[j] + first, lanes), sum);
  }
  sum.store_first(y + first, lanes);
}

template <class Number>
void convolve_heads(const Number* const* window, const float* weights, const HeadSizes& sizes,
                    std::size_t taps, float* y) {
  for (std::size_t h = 0; h < sizes.heads; ++h) {
    const float* const shares = weights + h * taps;
    const std::size_t end = (h + 1) * sizes.head_dim;
    std::size_t i = h * sizes.head_dim;
    for (; i + kConvolveVectors * kLanes <= end; i += kConvolveVectors * kLanes) {
      convolve<kConvolveVectors>(window, shares, taps, i, y);
    }
    for (; i + kLanes <= end; i += kLanes) convolve<1>(window, shares, taps, i, y);
    if (i < end) convolve_last(window, shares, taps, i, end - i, y);
  }
}

void dynconv(const float* const* window, const float* weights, const HeadSizes& sizes, std::size_t taps,
             float* y) {
  convolve_heads(window, weights, sizes, taps, y);
}

void dynconv_half(const std::uint16_t* const* window, const float* weights, const HeadSizes& sizes,
                  std::size_t taps, float* y) {
  convolve_heads(window, weights, sizes, taps, y);
}

void narrow(const float* x, std::size_t n, std::uint16_t* y) {
  for_each_vector(
      n, [=](std::size_t i) { Vec::load(x + i).store_half(y + i); },
      [=](std::size_t i, std::size_t lanes) {
        Vec::load_first(x + i, lanes).store_half_first(y + i, lanes);
      });
}

}  // namespace
}  // namespace kserve::kernels
