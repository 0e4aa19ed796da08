// Dense layer of bytes times rows. Each row is brought to bytes with one scale, the products of bytes are
// summed exactly in 32 bits, and both scales are applied to the sum: the same bits on every instruction set.
#pragma once

#include "kernels/dense-inl.h"
#include "kernels/dot-inl.h"

namespace kserve::kernels {
namespace {

// Outputs of some panels from `panel` on for the rows in work, from their totals.
void finish_panels(const DenseCall& call, std::size_t panel, std::size_t panels, std::size_t rows,
                   const float* row_scale, const std::int32_t* totals) {
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t p = 0; p < panels; ++p) {
      const std::int32_t* const total = totals + r * kDotOutputs + p * kLanes;
      const std::size_t first = (panel + p) * kLanes;
      const Vec scale = Vec::load(call.matrix.scale + first) * Vec::broadcast(row_scale[r]);
      write_panel(call, panel + p, r, Vec::from_ints(total) * scale);
    }
  }
}

// Scratch: see dense_scratch_floats.
void dense_int8(const DenseCall& call, std::size_t rows, float* scratch) {
  const std::size_t in = call.matrix.in, groups = (in + kBytesPerLane - 1) / kBytesPerLane;
  float* const scale = scratch;
  auto* const totals = reinterpret_cast<std::int32_t*>(scratch + kDenseRowsAtOnce);
  auto* const codes = reinterpret_cast<std::int8_t*>(totals + kDenseRowsAtOnce * kDotOutputs);
  for (std::size_t first = 0; first < rows; first += kDenseRowsAtOnce) {
    const std::size_t count = rows - first < kDenseRowsAtOnce ? rows - first : kDenseRowsAtOnce;
    const std::size_t bytes = groups * kBytesPerLane;
    for (std::size_t r = 0; r < count; ++r) {
      scale[r] = to_codes(call.x + (first + r) * call.x_stride, in, bytes, codes + r * bytes).step;
    }
    Epilogue epilogue = call.epilogue;  // rows are counted from 0 below
    if (epilogue.residual != nullptr) epilogue.residual += first * epilogue.residual_stride;
    const DenseCall part{call.matrix,  epilogue, call.x, call.x_stride, call.y + first * call.y_stride,
                         call.y_stride};
    const DotCall dot{static_cast<const std::int8_t*>(call.matrix.weights), call.matrix.offset, codes,
                      groups};
    Tiles::begin();
    for (std::size_t panel = 0; panel < part.panels(); panel += kDotPanels) {
      const std::size_t left = part.panels() - panel, panels = left < kDotPanels ? left : kDotPanels;
      dot_panels(dot, panel, panels, count, totals);
      finish_panels(part, panel, panels, count, scale, totals);
    }
    Tiles::end();
  }
}

void dense(const Dense& matrix, const InputRows& x, const Epilogue& epilogue, float* y, std::size_t y_stride,
           float* scratch) {
  const DenseCall call{matrix, epilogue, x.numbers, x.stride, y, y_stride};
  switch (matrix.precision) {
    case Precision::kHalf:
      return dense_rows<DenseTile<std::uint16_t>>(call, call.panels(), x.count);
    case Precision::kFloat:
      return dense_rows<DenseTile<float>>(call, call.panels(), x.count);
    case Precision::kInt8:
      return dense_int8(call, x.count, scratch);
  }
}

}  // namespace
}  // namespace kserve::kernels
