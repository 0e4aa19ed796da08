// Dense layer of halves or floats times rows, over panels of 16 outputs. Every output is one sum over the
// inputs in their order, however many rows there are: panels and rows are only taken together to use each
// loaded number more than once.
#pragma once

#include "kernels/epilogue-inl.h"

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

  std::size_t panels() const { return panels_of(matrix.out); }
};

KSERVE_INLINE Vec load_numbers(const std::uint16_t* p) { return Vec::load_half(p); }
KSERVE_INLINE Vec load_numbers(const float* p) { return Vec::load(p); }

// The 16 sums of one panel and row, through the epilogue into y.
KSERVE_INLINE void write_panel(const DenseCall& call, std::size_t panel, std::size_t row, Vec sums) {
  const std::size_t first = panel * kLanes, left = call.matrix.out - first;
  write_outputs(call.epilogue, row, first, left < kLanes ? left : kLanes, sums, call.y + row * call.y_stride);
}

// Panels from `panel` on for rows from `row` on; Number is half (uint16) or float.
template <class Number>
struct DenseTile {
  template <std::size_t kPanels, std::size_t kRows>
  static KSERVE_INLINE void run(const DenseCall& call, std::size_t panel, std::size_t row) {
    const std::size_t in = call.matrix.in;
    const Number* weights = static_cast<const Number*>(call.matrix.weights) + panel * in * kLanes;
    const float* x = call.x + row * call.x_stride;
    Vec sum[kRows][kPanels];
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRows * kPanels; ++i) sum[i / kPanels][i % kPanels] = Vec::zero();
    for (std::size_t k = 0; k < in; ++k) {
      KSERVE_UNROLL
      for (std::size_t p = 0; p < kPanels; ++p) {
        const Vec column = load_numbers(weights + (p * in + k) * kLanes);
        KSERVE_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          sum[r][p] = Vec::fma(column, Vec::broadcast(x[r * call.x_stride + k]), sum[r][p]);
        }
      }
    }
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRows * kPanels; ++i) {
      write_panel(call, panel + i % kPanels, row + i / kPanels, sum[i / kPanels][i % kPanels]);
    }
  }
};

// Some panels for all rows, so that every number of a panel is used for all of them while it is in the cache.
template <class Tile, std::size_t kPanels, class Call>
void dense_panels(const Call& call, std::size_t panel, std::size_t rows) {
  std::size_t row = 0;
  for (; row + kDenseRows <= rows; row += kDenseRows) {
    Tile::template run<kPanels, kDenseRows>(call, panel, row);
  }
  for (; row < rows; ++row) Tile::template run<kPanels, 1>(call, panel, row);
}

template <class Tile, class Call>
void dense_rows(const Call& call, std::size_t panels, std::size_t rows) {
  std::size_t panel = 0;
  if (rows < kDenseRows) {
    for (; panel + kPanelsForOneRow <= panels; panel += kPanelsForOneRow) {
      for (std::size_t row = 0; row < rows; ++row) {
        Tile::template run<kPanelsForOneRow, 1>(call, panel, row);
      }
    }
  } else {
    for (; panel + kPanelsForRows <= panels; panel += kPanelsForRows) {
      dense_panels<Tile, kPanelsForRows>(call, panel, rows);
    }
  }
  for (; panel < panels; ++panel) dense_panels<Tile, 1>(call, panel, rows);
}

}  // namespace
}  // namespace kserve::kernels
