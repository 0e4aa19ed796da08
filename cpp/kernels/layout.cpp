#include "kernels/layout.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace kserve::kernels {

KMatrix kmatrix_layer(std::size_t in, std::size_t out, std::size_t width, std::size_t expansion) {
  if (in == 0 || out == 0 || width == 0) {
    throw std::invalid_argument("K-matrix layer " + std::to_string(in) + " -> " + std::to_string(out) +
                                " of width " + std::to_string(width) + ": every size must be at least 1");
  }
  if (expansion == 0 || (expansion & (expansion - 1)) != 0) {
    throw std::invalid_argument("K-matrix expansion " + std::to_string(expansion) +
                                " is not a power of two; use 1, 2, 4 ...");
  }
  KMatrix matrix;
  matrix.in = in;
  matrix.out = out;
  matrix.width = width;
  matrix.tile = 2;  // a butterfly has at least one pair
  while (matrix.tile < std::min(in, out)) matrix.tile *= 2;
  matrix.inner = std::max(matrix.tile * expansion, kLanes);
  matrix.grid_rows = (out + matrix.tile - 1) / matrix.tile;
  matrix.grid_cols = (in + matrix.tile - 1) / matrix.tile;
  matrix.numbers_per_square = kmatrix_numbers(matrix.inner, width);
  return matrix;
}

// The rows in work, and their sums over the columns of the grid.
std::size_t kmatrix_scratch_floats(const KMatrix& matrix) {
  return kKMatrixRowsAtOnce * matrix.inner * (matrix.grid_cols > 1 ? 2 : 1);
}

std::size_t dense_scratch_floats(const Dense& matrix) {
  if (matrix.precision != Precision::kInt8) return 0;
  // Per row its bytes, four to a float, and its scale.
  return kDenseRowsAtOnce * ((matrix.in + kBytesPerLane - 1) / kBytesPerLane + 1);
}

std::size_t kmatrix_numbers(std::size_t inner, std::size_t width) {
  const std::size_t chunks = inner / kLanes;
  if (chunks == 1) return kLanes * kLanes;
  std::size_t strides = 0;  // of whole chunks
  while (std::size_t{1} << (strides + 1) <= chunks) ++strides;
  // Between two pairs the factors of the largest stride are one.
  const std::size_t factors = 2 * strides + (width - 1) * (2 * strides - 1);
  return factors * (chunks / 2) * 4 * kLanes + width * chunks * kLanes * kLanes;
}

std::size_t rank_scratch_bytes(std::size_t n, std::size_t rows) {
  const std::size_t padded = (n + kCodePadding - 1) / kCodePadding * kCodePadding;
  return rows * (kRankRowBytes + padded * sizeof(std::int16_t));
}

void measure_vocabulary(const Vocabulary& vocabulary, float* reach, std::int32_t* offset) {
  for (std::size_t v = 0; v < vocabulary.size; ++v) {
    const std::int8_t* row = vocabulary.table + v * vocabulary.n;
    std::uint32_t magnitude = 0, sum = 0;
    for (std::size_t i = 0; i < vocabulary.n; ++i) {
      const int number = row[i];
      magnitude += static_cast<std::uint32_t>(std::abs(number));
      sum += static_cast<std::uint32_t>(number);
    }
    const double scale = std::abs(static_cast<double>(vocabulary.scale[v]));
    reach[v] = static_cast<float>(scale * static_cast<double>(magnitude));
    offset[v] = static_cast<std::int32_t>(std::uint32_t{0} - (sum << 15));
  }
}

}  // namespace kserve::kernels
