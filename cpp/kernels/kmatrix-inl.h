// K-matrix times rows, over the run-time layout of docs/design.md.
//
// A square runs as passes over its vector of `inner` numbers. Where a square covers whole tiles of the
// layer's input and output and nothing is to be summed, the first pass reads the input, normalised on the way
// if that is asked for, and the last one adds bias and residual and writes the output. Of squares side by
// side the last pass adds to a sum, and that of the last square finishes a whole tile behind which a residual
// waits. Otherwise the numbers are copied before and finished after.
#pragma once

#include "kernels/epilogue-inl.h"
#include "kernels/kmatrix_square-inl.h"
#include "kernels/layout.h"
#include "kernels/norm-inl.h"

namespace kserve::kernels {
namespace {

// Chunks of one row of the layer's input, normalised if that is asked for: (x - mean) * scale.
template <bool kNormalised>
struct InputChunks {
  const float* first;
  std::size_t stride;
  float mean, scale;

  KSERVE_INLINE Vec load(std::size_t j) const {
    const Vec v = Vec::load(first + j * stride);
    return kNormalised ? (v - Vec::broadcast(mean)) * Vec::broadcast(scale) : v;
  }
};

// A tile of the layer's input, as many rows as are in work.
template <bool kNormalised>
struct Input {
  const float* x;
  std::size_t stride;
  const float* mean;  // of each row, as scale
  const float* scale;

  KSERVE_INLINE InputChunks<kNormalised> chunks(std::size_t row, const Place& place) const {
    return {x + row * stride + place.base * kLanes, place.step * kLanes, kNormalised ? mean[row] : 0.0F,
            kNormalised ? scale[row] : 1.0F};
  }
};

// Chunks of one row of the layer's output: max(least, value + bias) + residual.
template <bool kResidual>
struct OutputChunks {
  float* y;
  const float* bias;
  const float* residual;
  std::size_t stride;
  float least;  // 0 for a rectifier, else -infinity

  KSERVE_INLINE void store(std::size_t j, Vec value) const {
    value = Vec::max(Vec::broadcast(least), value + Vec::load(bias + j * stride));
    if constexpr (kResidual) value = value + Vec::load(residual + j * stride);
    value.store(y + j * stride);
  }
};

// A tile of the layer's output; y, bias and residual begin at its corner.
template <bool kResidual>
struct Output {
  float* y;
  const float* bias;
  const float* residual;
  std::size_t y_stride, residual_stride;
  float least;

  KSERVE_INLINE OutputChunks<kResidual> chunks(std::size_t row, const Place& place) const {
    const std::size_t at = place.base * kLanes;
    return {y + row * y_stride + at, bias + at, kResidual ? residual + row * residual_stride + at : nullptr,
            place.step * kLanes, least};
  }
};

// Chunks of one row of a sum, to which the value is added.
struct AddedChunks {
  Chunks sum;

  KSERVE_INLINE void store(std::size_t j, Vec value) const { sum.store(j, sum.load(j) + value); }
};

// Sums of squares side by side, the next of which is added.
struct Added {
  Work sums;

  KSERVE_INLINE AddedChunks chunks(std::size_t row, const Place& place) const {
    return {sums.chunks(row, place)};
  }
};

// Chunks of one row of the layer's output, from the sum of the squares before and the value.
struct CompletedChunks {
  Chunks sum;
  OutputChunks<true> out;

  KSERVE_INLINE void store(std::size_t j, Vec value) const { out.store(j, sum.load(j) + value); }
};

// A tile of the layer's output, which the last of the squares side by side completes.
struct Completed {
  Work sums;
  Output<true> out;

  KSERVE_INLINE CompletedChunks chunks(std::size_t row, const Place& place) const {
    return {sums.chunks(row, place), out.chunks(row, place)};
  }
};

// The rows of one call that are worked on together.
struct RowBlock {
  const float* x;
  std::size_t x_stride;
  float* y;
  std::size_t y_stride;
  std::size_t first, rows;  // `first` counts rows of the whole call: the residual is indexed by it
  const float* mean;        // of each row, or null where rows are taken as they are
  const float* scale;
};

// log2 of the chunks of a square.
std::size_t chunk_bits(const KMatrix& matrix) {
  std::size_t bits = 0;
  while (kLanes << bits < matrix.inner) ++bits;
  return bits;
}

// A layer at work.
struct Layer {
  const KMatrix& matrix;
  const Epilogue& epilogue;
  float* scratch;  // for the rows in work, then for their sums

  Work work(const RowBlock& block) const { return {scratch, block.rows}; }
  Work sums(const RowBlock& block) const { return {scratch + kKMatrixRowsAtOnce * matrix.inner, block.rows}; }
  Square square(std::size_t r, std::size_t c, const RowBlock& block) const {
    const std::size_t bits = chunk_bits(matrix);
    const std::size_t number = r * matrix.grid_cols + c;
    return {matrix.words + number * matrix.words_per_square,
            bits,
            matrix.width,
            {block.rows, std::size_t{1} << bits},
            work(block)};
  }
};

// How many of `total` features the tile number `index` covers; none if it lies beyond them.
std::size_t covered(std::size_t total, std::size_t tile, std::size_t index) {
  const std::size_t first = index * tile;
  if (first >= total) return 0;
  return total - first < tile ? total - first : tile;
}

// The chunks of one row in work = x (count), normalised, then zeros.
void copy_padded(const float* x, std::size_t count, float mean, float scale, const Chunks& chunks,
                 std::size_t number) {
  const Vec m = Vec::broadcast(mean), s = Vec::broadcast(scale);
  for (std::size_t j = 0, at = 0; j < number; ++j, at += kLanes) {
    if (at + kLanes <= count) {
      chunks.store(j, (Vec::load(x + at) - m) * s);
    } else if (at < count) {
      const std::size_t lanes = count - at;
      chunks.store(j, ((Vec::load_first(x + at, lanes) - m) * s).first_or(lanes, Vec::zero()));
    } else {
      chunks.store(j, Vec::zero());
    }
  }
}

// Grid row `r` of the layer's output.
template <bool kResidual>
Output<kResidual> output(const Layer& layer, std::size_t r, const RowBlock& block) {
  const Epilogue& epilogue = layer.epilogue;
  const std::size_t first = r * layer.matrix.tile;
  return {block.y + first,
          epilogue.bias + first,
          kResidual ? epilogue.residual + block.first * epilogue.residual_stride + first : nullptr,
          block.y_stride,
          epilogue.residual_stride,
          least_result(epilogue.activation)};
}

// Runs square (r, c) on its tile of the input.
template <class Out>
void run_tile(const Layer& layer, std::size_t r, std::size_t c, const RowBlock& block, const Out& out) {
  const KMatrix& matrix = layer.matrix;
  const Work work = layer.work(block);
  Square square = layer.square(r, c, block);
  const float* const x = block.x + c * matrix.tile;
  const std::size_t count = covered(matrix.in, matrix.tile, c);
  const bool plain = block.mean == nullptr;
  if (count == matrix.inner && plain) {
    return run_square(square, Input<false>{x, block.x_stride, nullptr, nullptr}, out);
  }
  for (std::size_t row = 0; row < block.rows; ++row) {
    const float mean = plain ? 0.0F : block.mean[row], scale = plain ? 1.0F : block.scale[row];
    copy_padded(x + row * block.x_stride, count, mean, scale, work.chunks(row, {0, 1}), square.extent.chunks);
  }
  run_square(square, work, out);
}

// Makes outputs of the sums of grid row `r`.
void finish_sums(const Layer& layer, std::size_t r, const RowBlock& block) {
  const KMatrix& matrix = layer.matrix;
  const std::size_t count = covered(matrix.out, matrix.tile, r), first = r * matrix.tile;
  for (std::size_t row = 0; row < block.rows; ++row) {
    const Chunks sum = layer.sums(block).chunks(row, {0, 1});
    float* const y = block.y + row * block.y_stride;
    for (std::size_t j = 0, at = 0; at < count; ++j, at += kLanes) {
      const std::size_t lanes = count - at < kLanes ? count - at : kLanes;
      write_outputs(layer.epilogue, block.first + row, first + at, lanes, sum.load(j), y);
    }
  }
}

// The squares of grid row `r` one after the other, each added to the sum of those before it.
void run_summed(const Layer& layer, std::size_t r, const RowBlock& block) {
  const KMatrix& matrix = layer.matrix;
  const Work sums = layer.sums(block);
  const std::size_t last = matrix.grid_cols - 1;
  const bool completes =
      last > 0 && layer.epilogue.residual != nullptr && covered(matrix.out, matrix.tile, r) == matrix.inner;
  run_tile(layer, r, 0, block, sums);
  for (std::size_t c = 1; c < (completes ? last : matrix.grid_cols); ++c)
    run_tile(layer, r, c, block, Added{sums});
  if (completes) return run_tile(layer, r, last, block, Completed{sums, output<true>(layer, r, block)});
  finish_sums(layer, r, block);
}

// A square that is all of its grid row and covers whole tiles.
void run_direct(const Layer& layer, std::size_t r, const RowBlock& block) {
  Square square = layer.square(r, 0, block);
  if (block.mean != nullptr) {
    const Input<true> normalised{block.x, block.x_stride, block.mean, block.scale};
    return run_square(square, normalised, output<false>(layer, r, block));
  }
  const Input<false> in{block.x, block.x_stride, nullptr, nullptr};
  if (layer.epilogue.residual == nullptr) return run_square(square, in, output<false>(layer, r, block));
  run_square(square, in, output<true>(layer, r, block));
}

void run_grid_row(const Layer& layer, std::size_t r, const RowBlock& block) {
  const KMatrix& matrix = layer.matrix;
  const bool whole = matrix.grid_cols == 1 && matrix.in == matrix.inner &&
                     covered(matrix.out, matrix.tile, r) == matrix.inner;
  // No layer of a model normalises and has a residual, so that there is no pass which does both.
  if (whole && (block.mean == nullptr || layer.epilogue.residual == nullptr))
    return run_direct(layer, r, block);
  run_summed(layer, r, block);
}

std::size_t kmatrix_passes(const KMatrix& matrix, PassForm* forms, std::size_t most) {
  PassList list{chunk_bits(matrix), matrix.width, {}, forms, most, 0};
  run_square(list, list.work, list.work);
  return list.count;
}

void kmatrix(const KMatrix& matrix, const InputRows& x, const Epilogue& epilogue, float* y,
             std::size_t y_stride, float* scratch) {
  const Layer layer{matrix, epilogue, scratch};
  float mean[kKMatrixRowsAtOnce], scale[kKMatrixRowsAtOnce];
  for (std::size_t first = 0; first < x.count; first += kKMatrixRowsAtOnce) {
    const std::size_t left = x.count - first, rows = left < kKMatrixRowsAtOnce ? left : kKMatrixRowsAtOnce;
    const float* const from = x.numbers + first * x.stride;
    for (std::size_t row = 0; x.normalise && row < rows; ++row) {
      measure_row(from + row * x.stride, matrix.in, mean + row, scale + row);
    }
    const RowBlock block{from,  x.stride, y + first * y_stride,         y_stride,
                         first, rows,     x.normalise ? mean : nullptr, scale};
    for (std::size_t r = 0; r < matrix.grid_rows; ++r) run_grid_row(layer, r, block);
  }
}

}  // namespace
}  // namespace kserve::kernels
