// Dynamic convolution of one row: each head has its own taps, shared by the head's channels.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

// The sum over taps, in their order, of weights[j] * window[j][channel ... channel + lanes - 1].
template <class Load>
KSERVE_INLINE Vec convolve(const float* const* window, const float* weights, std::size_t taps, Load load) {
  Vec sum = Vec::zero();
  for (std::size_t j = 0; j < taps; ++j) {
    if (window[j] == nullptr) continue;
    sum = Vec::fma(Vec::broadcast(weights[j]), load(window[j]), sum);
  }
  return sum;
}

void dynconv(const float* const* window, const float* weights, std::size_t heads, std::size_t head_dim,
             std::size_t taps, float* y) {
  for (std::size_t h = 0; h < heads; ++h) {
    const float* const shares = weights + h * taps;
    const std::size_t first = h * head_dim;
    for_each_vector(
        head_dim,
        [=](std::size_t i) {
          const auto load = [=](const float* row) { return Vec::load(row + first + i); };
          convolve(window, shares, taps, load).store(y + first + i);
        },
        [=](std::size_t i, std::size_t lanes) {
          const auto load = [=](const float* row) { return Vec::load_first(row + first + i, lanes); };
          convolve(window, shares, taps, load).store_first(y + first + i, lanes);
        });
  }
}

}  // namespace
}  // namespace kserve::kernels
