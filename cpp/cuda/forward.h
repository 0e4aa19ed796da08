// Forward kernel: y = x times a grid of K-matrices, plus bias; all factors of all squares in one launch.
#pragma once

#include "tile.h"

namespace kserve::cuda {

// x (rows, in), y (rows, out), twiddle (grid_rows * grid_cols, blocks, log_n, n / 2, 2, 2), bias (out) or
// null. Square (r, c) maps part c of the input to part r of the output; a part has `tile` columns.
template <class X, class W>
struct ForwardArguments {
  Cut cut;
  std::int64_t rows;
  int in, out, tile, grid_rows, grid_cols;
  const X* x;
  const W* twiddle;
  const W* bias;
  X* y;
};

// One cluster (or single block) of threads makes one part of the output for one tile of rows. Shared memory:
// the tile, and the sum over the parts of the input if there are several.
template <class X, class W, class Block>
KSERVE_DEVICE void forward_block(Block& block, const ForwardArguments<X, W>& a) {
  const Cut& cut = a.cut;
  const bool clustered = cut.log_cluster > 0;
  const std::int64_t work = block.index() >> cut.log_cluster;
  const int part = static_cast<int>(work % a.grid_rows);
  const std::int64_t first = work / a.grid_rows * cut.tile_rows;
  const int rows = static_cast<int>(a.rows - first < cut.tile_rows ? a.rows - first : cut.tile_rows);
  for (int c = 0; c < a.grid_cols; ++c) {
    load_tile(block, cut, Matrix<const X>{a.x, a.in, a.tile}.part(c, first, rows), 0);
    meet(block, clustered);
    const std::int64_t stack = part * a.grid_cols + c;
    const W* square = a.twiddle + stack * cut.twiddles();
    run_passes(block, cut, square, Run{0, cut.passes(), 0, 0}, rows);
    meet(block, clustered);
    if (a.grid_cols > 1) add_tile(block, cut, Addition{0, cut.region, c == 0}, rows);
  }
  const int result = a.grid_cols > 1 ? cut.region : 0;
  store_tile(block, cut, result, Matrix<X>{a.y, a.out, a.tile}.part(part, first, rows),
             a.bias == nullptr ? a.bias : a.bias + part * a.tile);
}

}  // namespace kserve::cuda
