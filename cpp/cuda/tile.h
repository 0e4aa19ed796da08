// Rows of a matrix into shared memory and back: padded with zeros to a square's size, cut to the matrix's.
#pragma once

#include "passes.h"

namespace kserve::cuda {

// `count` rows and `columns` columns of a matrix; `data` is their first number.
template <class Number>
struct Rows {
  Number* data;
  std::int64_t stride;
  int count, columns;
  bool aligned;  // four neighbouring columns may be read or written at once
};

// A matrix whose columns are cut into parts of `tile`.
template <class Number>
struct Matrix {
  Number* data;
  int columns, tile;

  // Part `part` from row `first` on.
  KSERVE_BOTH Rows<Number> part(int part, std::int64_t first, int count) const {
    const bool aligned = columns % 4 == 0 && tile % 4 == 0;
    return {data + first * columns + static_cast<std::int64_t>(part) * tile, columns, count,
            smaller(tile, columns - part * tile), aligned};
  }
};

// Calls body(number of the tile, row, column of the part) for every fourth column of the block's slice; each
// thread has its own.
template <class Block, class Body>
KSERVE_DEVICE void for_each_quad(Block& block, const Cut& cut, int rows, Body body) {
  const int log_quads = cut.log_row - 2, before = block.rank(cut) << cut.log_row;
  for (int i = block.thread(); i < rows << log_quads; i += 1 << cut.log_threads) {
    body(4 * i, i >> log_quads, before + 4 * (i & ((1 << log_quads) - 1)));
  }
}

template <class Block>
KSERVE_DEVICE void set_quad(Block& block, int region, int i, const Quad& quad) {
  const int at = swizzle(i);
  block.set(region + at, quad.x);
  block.set(region + (at ^ 1), quad.y);
  block.set(region + (at ^ 2), quad.z);
  block.set(region + (at ^ 3), quad.w);
}

template <class Block>
KSERVE_DEVICE Quad get_quad(Block& block, int region, int i) {
  const int at = swizzle(i);
  return {block.get(region + at), block.get(region + (at ^ 1)), block.get(region + (at ^ 2)),
          block.get(region + (at ^ 3))};
}

// The shared memory from `region` on becomes the rows, with zeros where they have no columns.
template <class Number, class Block>
KSERVE_DEVICE void load_tile(Block& block, const Cut& cut, const Rows<Number>& from, int region) {
  for_each_quad(block, cut, from.count, [&](int i, int row, int column) {
    const Number* at = from.data + row * from.stride + column;
    Quad quad = {};
    if (from.aligned && column < from.columns) {
      quad = load_constant_quad(at);
    } else {
      const int left = from.columns - column;
      if (left > 0) quad.x = widen(at[0]);
      if (left > 1) quad.y = widen(at[1]);
      if (left > 2) quad.z = widen(at[2]);
      if (left > 3) quad.w = widen(at[3]);
    }
    set_quad(block, region, i, quad);
  });
}

// The inverse; `bias` (columns) is added if it is not null.
template <class Number, class W, class Block>
KSERVE_DEVICE void store_tile(Block& block, const Cut& cut, int region, const Rows<Number>& to,
                              const W* bias) {
  for_each_quad(block, cut, to.count, [&](int i, int row, int column) {
    const int left = to.columns - column;
    if (left <= 0) return;
    Quad quad = get_quad(block, region, i);
    if (bias != nullptr) {
      quad.x += widen(bias[column]);
      if (left > 1) quad.y += widen(bias[column + 1]);
      if (left > 2) quad.z += widen(bias[column + 2]);
      if (left > 3) quad.w += widen(bias[column + 3]);
    }
    Number* at = to.data + row * to.stride + column;
    if (to.aligned) {
      store_quad(at, quad);
      return;
    }
    at[0] = narrow<Number>(quad.x);
    if (left > 1) at[1] = narrow<Number>(quad.y);
    if (left > 2) at[2] = narrow<Number>(quad.z);
    if (left > 3) at[3] = narrow<Number>(quad.w);
  });
}

// Region `sum` += region `tile`, or = it for the first of the terms.
struct Addition {
  int tile, sum;
  bool first;
};

template <class Block>
KSERVE_DEVICE void add_tile(Block& block, const Cut& cut, const Addition& of, int rows) {
  for_each_quad(block, cut, rows, [&](int i, int, int) {
    Quad quad = get_quad(block, of.tile, i);
    if (!of.first) {
      const Quad before = get_quad(block, of.sum, i);
      quad = {before.x + quad.x, before.y + quad.y, before.z + quad.z, before.w + quad.w};
    }
    set_quad(block, of.sum, i, quad);
  });
}

}  // namespace kserve::cuda
