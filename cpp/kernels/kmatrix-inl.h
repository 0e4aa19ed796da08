// K-matrix times rows, over the run-time layout of docs/design.md.
//
// A square runs as passes over its vector of `inner` numbers: up to three butterfly factors (radix 8) are
// done with eight chunks held in registers, so the numbers go through the first-level cache once a pass and
// not once a factor. Chunks are 16 lanes; within a pass lanes never meet, so a pass goes register by
// register. One row streams the half precision weights straight into the arithmetic; with more rows a group's
// weights are widened once into a small buffer and used for all of them. Either way every row sees the same
// operations in the same order.
#pragma once

#include "kernels/lanes-inl.h"
#include "kernels/layout.h"

namespace kserve::kernels {
namespace {

constexpr std::size_t kRowsAtOnce = kKMatrixRowsAtOnce;
constexpr std::size_t kPairNumbers = 4 * kLanes;             // t00 t01 t10 t11
constexpr std::size_t kBlockNumbers = kLanes * kLanes;       // one 16 x 16 block
constexpr std::size_t kMaxGroupNumbers = 12 * kPairNumbers;  // radix 8: three factors of four pairs

// The rows in work, `values` (inner / 16, rows, 16), and the next unread weight. The chunks of all rows at
// one place stand together, or the stores of one row would look like the loads of another to the processor,
// which compares addresses modulo 4096 first.
struct SquareWork {
  float* values;
  std::size_t rows;
  std::size_t inner;
  const std::uint16_t* weights;
};

KSERVE_INLINE Reg load_weights(const std::uint16_t* p) { return Reg::load_half(p); }
KSERVE_INLINE Reg load_weights(const float* p) { return Reg::load(p); }

void widen(const std::uint16_t* weights, std::size_t count, float* wide) {
  for (std::size_t i = 0; i < count; i += kLanes) Vec::load_half(weights + i).store(wide + i);
}

// One pair in registers: (a, b) = (t00 a + t01 b, t10 a + t11 b).
template <class Weight>
KSERVE_INLINE void butterfly(const Weight* t, Reg& a, Reg& b) {
  const Reg upper = Reg::fma(load_weights(t + kLanes), b, load_weights(t) * a);
  b = Reg::fma(load_weights(t + 3 * kLanes), b, load_weights(t + 2 * kLanes) * a);
  a = upper;
}

// kFactors factors on one group of 2^kFactors chunks that lie `step` floats apart, from `values`, in place.
template <std::size_t kFactors, bool kRising, class Weight>
KSERVE_INLINE void transform_group(const Weight* weights, float* values, std::size_t step) {
  constexpr std::size_t kRadix = std::size_t{1} << kFactors;
  for (std::size_t part = 0; part < Vec::kRegs; ++part) {
    const std::size_t lane = part * Reg::kWidth;
    Reg x[kRadix];
    KSERVE_UNROLL
    for (std::size_t j = 0; j < kRadix; ++j) x[j] = Reg::load(values + j * step + lane);
    KSERVE_UNROLL
    for (std::size_t factor = 0; factor < kFactors; ++factor) {
      const std::size_t stride = std::size_t{1} << (kRising ? factor : kFactors - 1 - factor);
      KSERVE_UNROLL
      for (std::size_t pair = 0; pair < kRadix / 2; ++pair) {
        const std::size_t low = pair / stride * 2 * stride + pair % stride;
        butterfly(weights + (factor * (kRadix / 2) + pair) * kPairNumbers + lane, x[low], x[low + stride]);
      }
    }
    KSERVE_UNROLL
    for (std::size_t j = 0; j < kRadix; ++j) x[j].store(values + j * step + lane);
  }
}

// One pass over all groups; `step` is its smallest stride, in floats of one row.
template <std::size_t kFactors, bool kRising>
void run_pass(SquareWork& work, std::size_t step) {
  constexpr std::size_t kNumbers = kFactors * (std::size_t{1} << (kFactors - 1)) * kPairNumbers;
  static_assert(kNumbers <= kMaxGroupNumbers);
  const std::size_t span = step << kFactors;
  for (std::size_t outer = 0; outer < work.inner; outer += span) {
    for (std::size_t base = outer; base < outer + step; base += kLanes) {
      if (work.rows == 1) {
        transform_group<kFactors, kRising>(work.weights, work.values + base, step);
      } else {
        alignas(64) float wide[kNumbers];
        widen(work.weights, kNumbers, wide);
        for (std::size_t row = 0; row < work.rows; ++row) {
          float* values = work.values + base * work.rows + row * kLanes;
          transform_group<kFactors, kRising>(wide, values, step * work.rows);
        }
      }
      work.weights += kNumbers;
    }
  }
}

template <bool kRising>
void run_pass(SquareWork& work, std::size_t factors, std::size_t step) {
  switch (factors) {
    case 1:
      return run_pass<1, kRising>(work, step);
    case 2:
      return run_pass<2, kRising>(work, step);
    default:
      return run_pass<3, kRising>(work, step);
  }
}

// Factors of stride `stride`, twice that … up to inner / 2, cut into passes of three from the start.
void run_rising(SquareWork& work) {
  std::size_t stride = kLanes;
  while (stride < work.inner) {
    std::size_t factors = 1;
    while (factors < 3 && stride << factors < work.inner) ++factors;
    run_pass<true>(work, factors, stride);
    stride <<= factors;
  }
}

// Factors of stride `stride`, half of that … down to one chunk, cut into passes of three from the start.
void run_falling(SquareWork& work, std::size_t stride) {
  while (stride >= kLanes) {
    std::size_t factors = 1;
    while (factors < 3 && stride >> factors >= kLanes) ++factors;
    run_pass<false>(work, factors, stride >> (factors - 1));
    stride >>= factors;
  }
}

// A 16 x 16 block on `kCount` chunks that lie one after the other, in place.
template <std::size_t kCount, class Weight>
KSERVE_INLINE void transform_block(const Weight* block, float* values) {
  Vec sum[kCount];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) sum[i] = Vec::zero();
  for (std::size_t j = 0; j < kLanes; ++j) {
    const Vec column =
        Vec::of([=](std::size_t part) { return load_weights(block + j * kLanes + part * Reg::kWidth); });
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kCount; ++i) {
      sum[i] = Vec::fma(column, Vec::broadcast(values[i * kLanes + j]), sum[i]);
    }
  }
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kCount; ++i) sum[i].store(values + i * kLanes);
}

void run_blocks(SquareWork& work) {
  constexpr std::size_t kTogether = 4;
  for (std::size_t base = 0; base < work.inner; base += kLanes, work.weights += kBlockNumbers) {
    float* const values = work.values + base * work.rows;
    if (work.rows == 1) {
      transform_block<1>(work.weights, values);
      continue;
    }
    alignas(64) float wide[kBlockNumbers];
    widen(work.weights, kBlockNumbers, wide);
    std::size_t row = 0;
    for (; row + kTogether <= work.rows; row += kTogether) {
      transform_block<kTogether>(wide, values + row * kLanes);
    }
    for (; row < work.rows; ++row) transform_block<1>(wide, values + row * kLanes);
  }
}

// All stages of one square of width `width`.
void run_square(SquareWork& work, std::size_t width) {
  if (work.inner == kLanes) return run_blocks(work);
  run_falling(work, work.inner / 2);
  run_blocks(work);
  for (std::size_t pair = 1; pair < width; ++pair) {
    run_rising(work);  // its last factor is the joined one
    run_falling(work, work.inner / 4);
    run_blocks(work);
  }
  run_rising(work);
}

// values (inner / 16, rows, 16) for one row = x (count), then zeros.
void copy_padded(const float* x, std::size_t count, const SquareWork& work, std::size_t row) {
  float* const values = work.values + row * kLanes;
  const std::size_t rows = work.rows;
  for_each_vector(
      count, [=](std::size_t i) { Vec::load(x + i).store(values + i * rows); },
      [=](std::size_t i, std::size_t lanes) { Vec::load_first(x + i, lanes).store(values + i * rows); });
  for (std::size_t i = (count + kLanes - 1) / kLanes * kLanes; i < work.inner; i += kLanes) {
    Vec::zero().store(values + i * rows);
  }
}

// sum = part, or sum + part; count is a multiple of 16.
void add_part(const float* part, std::size_t count, bool is_first, float* sum) {
  for (std::size_t i = 0; i < count; i += kLanes) {
    const Vec value = Vec::load(part + i);
    (is_first ? value : Vec::load(sum + i) + value).store(sum + i);
  }
}

// y (count) = activation(sum + bias) + residual for the outputs from `first` on of row `row`. Chunks of the
// sum lie `distance` chunks apart.
struct OutputPart {
  const Epilogue& epilogue;
  float* y;
  std::size_t row, first, count, distance;
};

KSERVE_INLINE Vec finish(Vec value, Vec bias, bool relu) {
  value = value + bias;
  return relu ? Vec::max(Vec::zero(), value) : value;
}

void write_output(const float* sum, const OutputPart& part) {
  const Epilogue& epilogue = part.epilogue;
  const bool relu = epilogue.activation == Activation::kRelu;
  const float* bias = epilogue.bias == nullptr ? nullptr : epilogue.bias + part.first;
  const float* residual = epilogue.residual == nullptr
                              ? nullptr
                              : epilogue.residual + part.row * epilogue.residual_stride + part.first;
  const auto whole = [=](std::size_t i) {
    Vec value =
        finish(Vec::load(sum + i * part.distance), bias == nullptr ? Vec::zero() : Vec::load(bias + i), relu);
    if (residual != nullptr) value = value + Vec::load(residual + i);
    value.store(part.y + i);
  };
  const auto tail = [=](std::size_t i, std::size_t lanes) {
    Vec value = finish(Vec::load(sum + i * part.distance),
                       bias == nullptr ? Vec::zero() : Vec::load_first(bias + i, lanes), relu);
    if (residual != nullptr) value = value + Vec::load_first(residual + i, lanes);
    value.store_first(part.y + i, lanes);
  };
  for_each_vector(part.count, whole, tail);
}

// The rows of one call that are worked on together.
struct RowBlock {
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
  std::size_t first, rows;  // `first` counts rows of the whole call: the residual is indexed by it
};

// How many of `total` features the tile number `index` covers; none if it lies beyond them.
std::size_t covered(std::size_t total, std::size_t tile, std::size_t index) {
  const std::size_t first = index * tile;
  if (first >= total) return 0;
  return total - first < tile ? total - first : tile;
}

// Square (r, c) of the grid on one block of rows: from x into the work's values.
void run_grid_square(const KMatrix& matrix, std::size_t r, std::size_t c, const RowBlock& block,
                     float* values) {
  const std::size_t square = r * matrix.grid_cols + c;
  SquareWork work{values, block.rows, matrix.inner, matrix.weights + square * matrix.numbers_per_square};
  const std::size_t count = covered(matrix.in, matrix.tile, c);
  for (std::size_t row = 0; row < block.rows; ++row) {
    copy_padded(block.x + row * block.x_stride + c * matrix.tile, count, work, row);
  }
  run_square(work, matrix.width);
}

// Row `r` of the grid for one block of rows: squares (r, 0), (r, 1) … added up, then the epilogue.
void run_grid_row(const KMatrix& matrix, std::size_t r, const RowBlock& block, const Epilogue& epilogue,
                  float* scratch) {
  float* const values = scratch;
  float* const sums = scratch + kRowsAtOnce * matrix.inner;
  const std::size_t used = (matrix.tile + kLanes - 1) / kLanes * kLanes * block.rows;
  for (std::size_t c = 0; c < matrix.grid_cols; ++c) {
    run_grid_square(matrix, r, c, block, values);
    if (matrix.grid_cols > 1) add_part(values, used, c == 0, sums);
  }
  const float* const results = matrix.grid_cols == 1 ? values : sums;
  const std::size_t first = r * matrix.tile;
  for (std::size_t row = 0; row < block.rows; ++row) {
    float* const y = block.y + row * block.y_stride + first;
    write_output(results + row * kLanes,
                 {epilogue, y, block.first + row, first, covered(matrix.out, matrix.tile, r), block.rows});
  }
}

void kmatrix(const KMatrix& matrix, const float* x, std::size_t x_stride, std::size_t rows,
             const Epilogue& epilogue, float* y, std::size_t y_stride, float* scratch) {
  for (std::size_t first = 0; first < rows; first += kRowsAtOnce) {
    const std::size_t count = rows - first < kRowsAtOnce ? rows - first : kRowsAtOnce;
    const RowBlock block{x + first * x_stride, x_stride, y + first * y_stride, y_stride, first, count};
    for (std::size_t r = 0; r < matrix.grid_rows; ++r) run_grid_row(matrix, r, block, epilogue, scratch);
  }
}

}  // namespace
}  // namespace kserve::kernels
