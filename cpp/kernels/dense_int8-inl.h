// Dense layer of bytes times rows. Each row is brought to bytes with one scale, the products of bytes are
// summed exactly in 32 bits, and both scales are applied to the sum: the same bits on every instruction set.
#pragma once

#include "kernels/dense-inl.h"

namespace kserve::kernels {
namespace {

struct Int8Call {
  const DenseCall& dense;
  const std::int8_t* x;  // (rows, bytes), each number with Dot::kShift added
  const float* x_scale;  // (rows)
  std::size_t bytes;     // inputs, rounded up to whole groups of kBytesPerLane
};

// A logical vector of sums, and what Dot::kShift adds to each of them.
struct DotVec {
  static constexpr std::size_t kParts = kLanes / Dot::kWidth;
  Dot part[kParts];
};

KSERVE_INLINE void clear(DotVec& sums) {
  KSERVE_UNROLL
  for (std::size_t i = 0; i < DotVec::kParts; ++i) sums.part[i] = Dot::fill(0);
}

KSERVE_INLINE void add_products(DotVec& sums, Dot x, const DotVec& weights) {
  KSERVE_UNROLL
  for (std::size_t i = 0; i < DotVec::kParts; ++i) {
    sums.part[i] = Dot::add(sums.part[i], x, weights.part[i]);
  }
}

KSERVE_INLINE Vec without_shift(const DotVec& sums, const DotVec& shift) {
  return Vec::of([&](std::size_t i) { return Dot::difference(sums.part[i], shift.part[i]).to_float(); });
}

struct Int8Tile {
  template <std::size_t kPanels, std::size_t kRows>
  static KSERVE_INLINE void run(const Int8Call& call, std::size_t panel, std::size_t row) {
    const std::size_t stride = call.bytes * kLanes;  // of a panel
    const auto* weights = static_cast<const std::int8_t*>(call.dense.matrix.weights) + panel * stride;
    const std::int8_t* x = call.x + row * call.bytes;
    DotVec sum[kRows][kPanels], shift[kPanels];
    KSERVE_UNROLL
    for (std::size_t p = 0; p < kPanels; ++p) {
      clear(shift[p]);
      KSERVE_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) clear(sum[r][p]);
    }
    for (std::size_t k = 0; k < call.bytes; k += kBytesPerLane) {
      KSERVE_UNROLL
      for (std::size_t p = 0; p < kPanels; ++p) {
        DotVec w;
        KSERVE_UNROLL
        for (std::size_t i = 0; i < DotVec::kParts; ++i) {
          w.part[i] = Dot::load(weights + p * stride + k * kLanes + i * Dot::kWidth * kBytesPerLane);
        }
        if constexpr (Dot::kShift != 0) add_products(shift[p], Dot::fill(Dot::kShift), w);
        KSERVE_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          add_products(sum[r][p], Dot::broadcast(x + r * call.bytes + k), w);
        }
      }
    }
    for (std::size_t i = 0; i < kRows * kPanels; ++i) {
      const std::size_t p = i % kPanels, r = i / kPanels;
      const Vec scale =
          Vec::load(call.dense.matrix.scale + (panel + p) * kLanes) * Vec::broadcast(call.x_scale[row + r]);
      write_panel(call.dense, panel + p, row + r, without_shift(sum[r][p], shift[p]) * scale);
    }
  }
};

// The bits of the largest absolute value: as whole numbers they order like the floats, and NaN comes last.
std::uint32_t largest_bits(const float* x, std::size_t n) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7FFFFFFFU;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

// bytes = round(x / scale) + Dot::kShift; returns scale, NaN if a number is not finite.
float to_bytes(const float* x, std::size_t n, std::size_t padded, std::int8_t* bytes) {
  const std::uint32_t bits = largest_bits(x, n);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  constexpr float kTiny = 1e-30F;  // below, 127 / largest would not be a number
  const bool finite = bits < 0x7F800000U;
  const float inverse = finite && largest > kTiny ? 127.0F / largest : 0.0F;
  constexpr float kToNearest = 12582912.0F;  // 1.5 * 2^23: adding it leaves no room for a fraction
  for (std::size_t i = 0; i < n; ++i) {
    const float value = finite ? x[i] * inverse : 0.0F;
    bytes[i] = static_cast<std::int8_t>(static_cast<int>(value + kToNearest - kToNearest) + Dot::kShift);
  }
  for (std::size_t i = n; i < padded; ++i) bytes[i] = static_cast<std::int8_t>(Dot::kShift);
  if (!finite) return __builtin_nanf("");
  return largest > kTiny ? largest / 127.0F : 0.0F;
}

// scratch: see dense_scratch_floats.
void dense_int8(const DenseCall& call, std::size_t rows, float* scratch) {
  const std::size_t in = call.matrix.in;
  const std::size_t bytes = (in + kBytesPerLane - 1) / kBytesPerLane * kBytesPerLane;
  float* const scale = scratch;
  auto* const numbers = reinterpret_cast<std::int8_t*>(scratch + kDenseRowsAtOnce);
  for (std::size_t first = 0; first < rows; first += kDenseRowsAtOnce) {
    const std::size_t count = rows - first < kDenseRowsAtOnce ? rows - first : kDenseRowsAtOnce;
    for (std::size_t r = 0; r < count; ++r) {
      scale[r] = to_bytes(call.x + (first + r) * call.x_stride, in, bytes, numbers + r * bytes);
    }
    Epilogue epilogue = call.epilogue;  // rows are counted from 0 below
    if (epilogue.residual != nullptr) epilogue.residual += first * epilogue.residual_stride;
    const DenseCall part{call.matrix,  epilogue, call.x, call.x_stride, call.y + first * call.y_stride,
                         call.y_stride};
    dense_rows<Int8Tile>(Int8Call{part, numbers, scale, bytes}, part.panels(), count);
  }
}

void dense(const Dense& matrix, const float* x, std::size_t x_stride, std::size_t rows,
           const Epilogue& epilogue, float* y, std::size_t y_stride, float* scratch) {
  const DenseCall call{matrix, epilogue, x, x_stride, y, y_stride};
  switch (matrix.precision) {
    case Precision::kHalf:
      return dense_rows<DenseTile<std::uint16_t>>(call, call.panels(), rows);
    case Precision::kFloat:
      return dense_rows<DenseTile<float>>(call, call.panels(), rows);
    case Precision::kInt8:
      return dense_int8(call, rows, scratch);
  }
}

}  // namespace
}  // namespace kserve::kernels
