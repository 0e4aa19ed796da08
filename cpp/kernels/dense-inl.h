// Dense layer times rows, over panels of 16 outputs. Every output is one sum over the inputs in their order,
// however many rows there are: panels and rows are only taken together to use each loaded number more than
// once.
#pragma once

#include "kernels/kmatrix-inl.h"

namespace kserve::kernels {
namespace {

// Panels taken together with one row, and with a block of rows: as many sums as the registers hold.
constexpr std::size_t kDenseRows = 4;
constexpr std::size_t kPanelsForOneRow = Vec::kRegs == 1 ? 8 : Vec::kRegs == 2 ? 4 : 1;
constexpr std::size_t kPanelsForRows = Vec::kRegs == 1 ? 4 : 1;

struct DenseCall {
  const Dense& matrix;
  const Epilogue& epilogue;
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
};

// Panels from `panel` on for rows from `row` on.
template <std::size_t kPanels, std::size_t kRows>
KSERVE_INLINE void dense_tile(const DenseCall& call, std::size_t panel, std::size_t row) {
  const std::size_t in = call.matrix.in;
  const std::uint16_t* weights = call.matrix.weights + panel * in * kLanes;
  const float* x = call.x + row * call.x_stride;
  Vec sum[kRows][kPanels];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kRows * kPanels; ++i) sum[i / kPanels][i % kPanels] = Vec::zero();
  for (std::size_t k = 0; k < in; ++k) {
    KSERVE_UNROLL
    for (std::size_t p = 0; p < kPanels; ++p) {
      const Vec column = Vec::load_half(weights + (p * in + k) * kLanes);
      KSERVE_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        sum[r][p] = Vec::fma(column, Vec::broadcast(x[r * call.x_stride + k]), sum[r][p]);
      }
    }
  }
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kRows * kPanels; ++i) {
    const std::size_t first = (panel + i % kPanels) * kLanes;
    const std::size_t left = call.matrix.out - first;
    alignas(64) float result[kLanes];
    sum[i / kPanels][i % kPanels].store(result);
    const std::size_t at = row + i / kPanels;
    write_output(result, {call.epilogue, call.y + at * call.y_stride + first, at, first,
                          left < kLanes ? left : kLanes, 1});
  }
}

// All panels for rows from `row` on.
template <std::size_t kPanels, std::size_t kRows>
void dense_rows(const DenseCall& call, std::size_t row) {
  const std::size_t panels = (call.matrix.out + kLanes - 1) / kLanes;
  std::size_t panel = 0;
  for (; panel + kPanels <= panels; panel += kPanels) dense_tile<kPanels, kRows>(call, panel, row);
  for (; panel < panels; ++panel) dense_tile<1, kRows>(call, panel, row);
}

void dense(const Dense& matrix, const float* x, std::size_t x_stride, std::size_t rows,
           const Epilogue& epilogue, float* y, std::size_t y_stride) {
  const DenseCall call{matrix, epilogue, x, x_stride, y, y_stride};
  std::size_t row = 0;
  for (; row + kDenseRows <= rows; row += kDenseRows) dense_rows<kPanelsForRows, kDenseRows>(call, row);
  for (; row < rows; ++row) dense_rows<kPanelsForOneRow, 1>(call, row);
}

}  // namespace
}  // namespace kserve::kernels
