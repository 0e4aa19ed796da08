// Butterfly multiplication for training on a CPU: forward and backward over many rows, in single precision,
// straight from the trained twiddles. (Serving uses the packed form of table.h.)
//
// Rows lie in lanes: a tile holds kTileRows rows as (n, kTileRows), so that every stride is alike, a twiddle
// is one broadcast number, and nothing is shuffled but the rows on their way in and out.
#pragma once

#include <cstddef>

namespace kserve::training {

constexpr std::size_t kTileRows = 32;

// One square: `blocks` butterflies of size n = 2^log_n, even ones of decreasing, odd ones of increasing
// strides. twiddle (blocks, log_n, n / 2, 2, 2).
struct Butterfly {
  std::size_t log_n = 0, blocks = 0;
  const float* twiddle = nullptr;
};

// A pass runs two factors (or the odd one left over in a block) over the tile at once.
constexpr std::size_t butterfly_passes(std::size_t log_n, std::size_t blocks) {
  return blocks * ((log_n + 1) / 2);
}

struct ButterflyTable {
  // tile (n, kTileRows) from x (rows <= kTileRows, columns <= n) of row stride `stride`; zeros elsewhere.
  void (*load_tile)(const float* x, std::size_t stride, std::size_t rows, std::size_t columns, std::size_t n,
                    float* tile);
  // The inverse, for the first `columns` and `rows`.
  void (*store_tile)(const float* tile, std::size_t rows, std::size_t columns, float* y, std::size_t stride);
  // sum (n, kTileRows) += tile (n, kTileRows).
  void (*add_tile)(const float* tile, std::size_t n, float* sum);
  // In place: tile becomes the square's product with it.
  void (*forward)(const Butterfly& square, float* tile);
  // saved (passes, n, kTileRows): the first part is given; each pass but the last writes the part after it.
  void (*save_passes)(const Butterfly& square, float* saved);
  // In place: grad (n, kTileRows) of the output becomes that of the input; grad_twiddle (as twiddle) is added
  // to.
  void (*backward)(const Butterfly& square, const float* saved, float* grad, float* grad_twiddle);
};

}  // namespace kserve::training
