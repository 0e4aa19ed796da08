// What happens to the 16 sums of a linear layer before they are stored.
#pragma once

#include <math.h>

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

// What the activation raises smaller results to.
KSERVE_INLINE float least_result(Activation activation) {
  return activation == Activation::kRelu ? 0.0F : -INFINITY;
}

// Outputs first ... first + lanes - 1 of row `row` from their sums; y is the row of the result.
KSERVE_INLINE void write_outputs(const Epilogue& epilogue, std::size_t row, std::size_t first,
                                 std::size_t lanes, Vec sums, float* y) {
  const auto load = [=](const float* p) {
    return lanes == kLanes ? Vec::load(p) : Vec::load_first(p, lanes);
  };
  Vec value = Vec::max(Vec::broadcast(least_result(epilogue.activation)), sums + load(epilogue.bias + first));
  if (epilogue.residual != nullptr) {
    value = value + load(epilogue.residual + row * epilogue.residual_stride + first);
  }
  return lanes == kLanes ? value.store(y + first) : value.store_first(y + first, lanes);
}

}  // namespace
}  // namespace kserve::kernels
