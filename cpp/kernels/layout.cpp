#include "kernels/layout.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

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
  matrix.words_per_square = kmatrix_words(matrix.inner, width);
  return matrix;
}

// The rows in work, and their sums over the columns of the grid.
std::size_t kmatrix_scratch_floats(const KMatrix& matrix) { return kKMatrixRowsAtOnce * matrix.inner * 2; }

std::size_t dense_scratch_floats(const Dense& matrix) {
  if (matrix.precision != Precision::kInt8) return 0;
  // Per row its scale, its totals of four panels, and its bytes, four to a float.
  return kDenseRowsAtOnce * (1 + 4 * kLanes + byte_groups(matrix.in));
}

std::size_t kmatrix_words(std::size_t inner, std::size_t width) {
  std::size_t levels = 0;
  while (std::size_t{1} << levels < inner) ++levels;
  // Between two pairs the factors of the largest stride are one, unless they lie within a chunk.
  const std::size_t joined = inner > kLanes ? width - 1 : 0;
  return (width * 2 * levels - joined) * inner / 2;
}

RankMemory rank_memory(std::size_t n, std::size_t rows, std::size_t count) {
  const auto aligned = [](std::size_t bytes) { return (bytes + 63) / 64 * 64; };
  const std::size_t padded_rows = (rows + kRowBlock - 1) / kRowBlock * kRowBlock;
  RankMemory memory{};
  count = ranked_tokens(count);
  memory.candidate_bytes = (candidate_room(count) + count) * kCandidateBytes + count * sizeof(float);
  memory.codes = rows * kRankRowBytes;
  memory.totals = memory.codes + aligned(padded_rows * byte_groups(n) * kBytesPerLane);
  memory.candidates = memory.totals + padded_rows * 4 * kLanes * sizeof(std::int32_t);
  memory.bytes = memory.candidates + aligned(rows * memory.candidate_bytes);
  return memory;
}

void measure_offsets(const std::int8_t* panels, std::size_t outputs, std::size_t groups,
                     std::int32_t* offset) {
  std::fill_n(offset, panels_of(outputs) * kLanes, 0);
  for (std::size_t i = 0; i < panels_of(outputs) * groups * kLanes * kBytesPerLane; ++i) {
    const std::size_t panel = i / (groups * kLanes * kBytesPerLane);
    offset[panel * kLanes + i / kBytesPerLane % kLanes] -= kCodeShift * panels[i];
  }
}

void measure_vocabulary(const Vocabulary& vocabulary, float* reach, std::int32_t* offset) {
  const std::size_t groups = byte_groups(vocabulary.n), outputs = panels_of(vocabulary.size) * kLanes;
  measure_offsets(vocabulary.panels, vocabulary.size, groups, offset);
  std::vector<std::int64_t> squares(outputs, 0);
  for (std::size_t i = 0; i < outputs * groups * kBytesPerLane; ++i) {
    const std::size_t panel = i / (groups * kLanes * kBytesPerLane);
    const int number = vocabulary.panels[i];
    squares[panel * kLanes + i / kBytesPerLane % kLanes] += number * number;
  }
  for (std::size_t v = 0; v < outputs; ++v) {
    const double scale = std::abs(static_cast<double>(vocabulary.scale[v]));
    // A little too large, as float rounds to the nearest.
    reach[v] = static_cast<float>(scale * std::sqrt(static_cast<double>(squares[v])) * (1.0 + 0x1p-20));
  }
}

}  // namespace kserve::kernels
