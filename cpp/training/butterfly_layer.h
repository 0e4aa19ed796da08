// A training layer: a grid of butterfly squares over many rows, on several threads.
#pragma once

#include <cstddef>

#include "training/table.h"

namespace kserve::training {

// Sizes as in docs/design.md, "K-matrices"; twiddle (grid_rows * grid_cols, blocks, log_inner, inner / 2, 2,
// 2).
struct ButterflyLayer {
  std::size_t in = 0, out = 0, tile = 0, log_inner = 0, blocks = 0;
  std::size_t grid_rows = 0, grid_cols = 0;
  const float* twiddle = nullptr;
  const ButterflyTable* table = nullptr;
  std::size_t threads = 1;

  std::size_t inner() const { return std::size_t{1} << log_inner; }
  std::size_t twiddles_per_square() const { return blocks * log_inner * 2 * inner(); }
};

// y (rows, out) = x (rows, in) times the layer, plus bias (out) if it is not null.
void butterfly_layer_forward(const ButterflyLayer& layer, const float* x, std::size_t rows, const float* bias,
                             float* y);

// Gradients of the input, grad_x (rows, in), and of the twiddles, grad_twiddle, from that of the output,
// grad_y (rows, out). For a given number of threads the sums are made in the same order every time.
void butterfly_layer_backward(const ButterflyLayer& layer, const float* x, const float* grad_y,
                              std::size_t rows, float* grad_x, float* grad_twiddle);

}  // namespace kserve::training
