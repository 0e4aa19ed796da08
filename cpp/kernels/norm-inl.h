// Layer normalisation of one row: mean first, then the variance about it, so that nothing cancels.
#pragma once

#include <math.h>

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

float mean_of(const float* x, std::size_t n) {
  Vec sum = Vec::zero();
  for_each_vector(
      n, [&](std::size_t i) { sum = sum + Vec::load(x + i); },
      [&](std::size_t i, std::size_t lanes) { sum = sum + Vec::load_first(x + i, lanes); });
  return sum.sum() / static_cast<float>(n);
}

float variance_about(float mean, const float* x, std::size_t n) {
  const Vec centre = Vec::broadcast(mean);
  Vec sum = Vec::zero();
  for_each_vector(
      n,
      [&](std::size_t i) {
        const Vec difference = Vec::load(x + i) - centre;
        sum = Vec::fma(difference, difference, sum);
      },
      [&](std::size_t i, std::size_t lanes) {
        const Vec difference = (Vec::load_first(x + i, lanes) - centre).first_or(lanes, Vec::zero());
        sum = Vec::fma(difference, difference, sum);
      });
  return sum.sum() / static_cast<float>(n);
}

void layer_norm(const float* x, std::size_t n, const float* gain, const float* bias, float epsilon,
                float* y) {
  const float mean = mean_of(x, n);
  const Vec centre = Vec::broadcast(mean);
  const Vec scale = Vec::broadcast(1.0F / ::sqrtf(variance_about(mean, x, n) + epsilon));
  for_each_vector(
      n,
      [=](std::size_t i) {
        const Vec unit = (Vec::load(x + i) - centre) * scale;
        Vec::fma(unit, Vec::load(gain + i), Vec::load(bias + i)).store(y + i);
      },
      [=](std::size_t i, std::size_t lanes) {
        const Vec unit = (Vec::load_first(x + i, lanes) - centre) * scale;
        Vec::fma(unit, Vec::load_first(gain + i, lanes), Vec::load_first(bias + i, lanes))
            .store_first(y + i, lanes);
      });
}

}  // namespace
}  // namespace kserve::kernels
