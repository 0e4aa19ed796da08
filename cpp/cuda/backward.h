// Backward kernels: gradients of the input and of the twiddles. The intermediate values are computed again.
//
// A cluster (or single block) of threads, a "worker", goes through many tiles of rows. It sums the twiddles'
// gradients of its rows in memory of its own, so that there are no atomics and the same sums come out every
// time; a second kernel adds up the workers.
#pragma once

#include "tile.h"

namespace kserve::cuda {

// Sizes as in ForwardArguments. partial (stacks, workers * slots, twiddles of a square), scratch (blocks of
// threads, parked segments, numbers of a block's slice of a tile).
template <class X, class W>
struct BackwardArguments {
  Cut cut;
  std::int64_t rows;
  int in, out, tile, grid_rows, grid_cols;
  int workers;
  int segment;  // inputs of so many passes are held at once
  const X* x;
  const W* twiddle;
  const X* grad_y;
  X* grad_x;
  float* partial;
  float* scratch;

  KSERVE_BOTH int segments() const { return (cut.passes() + segment - 1) / segment; }
  // Segments whose first input is parked in `scratch`: all but the first (it is x) and the last (in place).
  KSERVE_BOTH int parked() const { return larger(0, segments() - 2); }
};

// What a worker has in hand: a square, one of its tiles, and where things are in shared memory.
template <class X, class W>
struct Work {
  Rows<const X> x;
  const W* twiddle;
  float* partial;  // of the worker's slot 0, for this square
  float* scratch;
  int grad;    // region of the gradient
  bool first;  // the worker's first tile: partial sums start here
};

// Copies region 0 to scratch, and back.
template <class Block>
KSERVE_DEVICE void park(Block& block, const Cut& cut, float* scratch, int rows) {
  for_each_quad(block, cut, rows, [&](int i, int, int) { store_quad(scratch + i, get_quad(block, 0, i)); });
}

template <class Block>
KSERVE_DEVICE void unpark(Block& block, const Cut& cut, const float* scratch, int rows) {
  for_each_quad(block, cut, rows, [&](int i, int, int) { set_quad(block, 0, i, load_quad(scratch + i)); });
}

// Where a thread's sums go: its own part of `partial`, which they start or are added to.
struct Target {
  float* partial;
  bool first;
};

KSERVE_DEVICE void add_sums(const Cut& cut, const Pass& pass, int group, const Twiddles& sum,
                            const Target& target) {
  for_each_pair(cut, pass, group, [&](int bit, int pair, int at) {
    Quad quad = sum.of[bit][pair];
    if (!target.first) {
      const Quad before = load_quad(static_cast<const float*>(target.partial + at));
      quad = {before.x + quad.x, before.y + quad.y, before.z + quad.z, before.w + quad.w};
    }
    store_quad(target.partial + at, quad);
  });
}

// One pass backward; its input is in region `from`.
template <class X, class W, class Block>
KSERVE_DEVICE void backward_pass(Block& block, const Cut& cut, const Work<X, W>& work, int index, int from) {
  const Pass pass = pass_at(cut, index);
  for (int turn = 0; turn < cut.turns(); ++turn) {
    const Place place = place_of(cut, block.thread(), turn);
    const int group = whole_group(block, cut, place.group);
    const Addresses first = addresses(cut, pass, block.rank(cut), place.group);
    const Twiddles twiddles = load_twiddles(cut, pass, group, work.twiddle);
    Twiddles sum = {};
    KSERVE_ROLLED
    for (int row = place.slot; row < work.x.count; row += cut.slots()) {
      const Addresses at = first.in_row(cut, row);
      float x[kGroup], g[kGroup];
      get_group(block, from, at, x);
      get_group(block, work.grad, at, g);
      apply_pass_backward(pass, twiddles, x, g, sum);
      set_group(block, work.grad, at, g);
    }
    const std::int64_t copy = static_cast<std::int64_t>(place.slot) * cut.twiddles();
    add_sums(cut, pass, group, sum, Target{work.partial + copy, work.first});
  }
}

// Brings the input of the last segment into region 0, parking those of the segments between on the way.
template <class X, class W, class Block>
KSERVE_DEVICE void reach_last_segment(Block& block, const BackwardArguments<X, W>& a,
                                      const Work<X, W>& work) {
  for (int s = 1; s < a.segments(); ++s) {
    run_passes(block, a.cut, work.twiddle, Run{(s - 1) * a.segment, s * a.segment, 0, 0}, work.x.count);
    meet(block, a.cut.log_cluster > 0);
    if (s + 1 == a.segments()) return;
    park(block, a.cut, work.scratch + static_cast<std::int64_t>(s - 1) * a.cut.region, work.x.count);
    meet(block, a.cut.log_cluster > 0);
  }
}

// The square's backward pass on one tile; its gradient is in region work.grad and stays there.
template <class X, class W, class Block>
KSERVE_DEVICE void backward_square(Block& block, const BackwardArguments<X, W>& a, const Work<X, W>& work) {
  const Cut& cut = a.cut;
  load_tile(block, cut, work.x, 0);
  meet(block, a.cut.log_cluster > 0);
  reach_last_segment(block, a, work);
  for (int s = a.segments() - 1; s >= 0; --s) {
    const int begin = s * a.segment, end = smaller(cut.passes(), begin + a.segment);
    if (s + 1 < a.segments()) {
      if (s > 0) {
        unpark(block, cut, work.scratch + static_cast<std::int64_t>(s - 1) * cut.region, work.x.count);
      } else {
        load_tile(block, cut, work.x, 0);
      }
      meet(block, a.cut.log_cluster > 0);
    }
    run_passes(block, cut, work.twiddle, Run{begin, end - 1, 0, cut.region}, work.x.count);
    meet(block, a.cut.log_cluster > 0);
    for (int index = end - 1; index >= begin; --index) {
      backward_pass(block, cut, work, index, (index - begin) * cut.region);
      // The tile's last pass backward is a wide one, and so is what may follow.
      meet(block, pass_at(cut, index).wide || pass_at(cut, larger(0, index - 1)).wide);
    }
  }
}

// One worker: all its tiles of one part of the input. Shared memory: the inputs of `segment` passes, the
// gradient, and the sum over the parts of the output if there are several.
template <class X, class W, class Block>
KSERVE_DEVICE void backward_block(Block& block, const BackwardArguments<X, W>& a) {
  const Cut& cut = a.cut;
  const int work_index = static_cast<int>(block.index() >> cut.log_cluster);
  const int part = work_index % a.grid_cols, worker = work_index / a.grid_cols;
  const int grad = a.segment * cut.region, sum = grad + cut.region;
  const std::int64_t step = static_cast<std::int64_t>(a.workers) * cut.tile_rows;
  for (std::int64_t first = static_cast<std::int64_t>(worker) * cut.tile_rows; first < a.rows;
       first += step) {
    const int rows = static_cast<int>(a.rows - first < cut.tile_rows ? a.rows - first : cut.tile_rows);
    for (int r = 0; r < a.grid_rows; ++r) {
      const std::int64_t stack = r * a.grid_cols + part;
      const std::int64_t copy = (stack * a.workers + worker) * cut.slots();
      const Work<X, W> work = {Matrix<const X>{a.x, a.in, a.tile}.part(part, first, rows),
                               a.twiddle + stack * cut.twiddles(),
                               a.partial + copy * cut.twiddles(),
                               a.scratch + block.index() * a.parked() * cut.region,
                               grad,
                               first < step};
      load_tile(block, cut, Matrix<const X>{a.grad_y, a.out, a.tile}.part(r, first, rows), grad);
      backward_square(block, a, work);
      if (a.grid_rows > 1) add_tile(block, cut, Addition{grad, sum, r == 0}, rows);
      meet(block, a.cut.log_cluster > 0);
    }
    store_tile(block, cut, a.grid_rows > 1 ? sum : grad,
               Matrix<X>{a.grad_x, a.in, a.tile}.part(part, first, rows), static_cast<const W*>(nullptr));
    meet(block, a.cut.log_cluster > 0);
  }
}

// grad (stacks, twiddles of a square) = the sum of partial (stacks, copies, twiddles of a square) over
// copies.
template <class W>
struct SumArguments {
  std::int64_t twiddles;  // of a square, a multiple of four
  int stacks, copies;
  const float* partial;
  W* grad;
};

template <class W, class Block>
KSERVE_DEVICE void sum_block(Block& block, const SumArguments<W>& a) {
  const std::int64_t i = 4 * (block.index() * block.threads() + block.thread());
  if (i >= a.stacks * a.twiddles) return;
  const float* from = a.partial + i / a.twiddles * a.copies * a.twiddles + i % a.twiddles;
  Quad sum = load_quad(from);
  for (int copy = 1; copy < a.copies; ++copy) {
    const Quad quad = load_quad(from + copy * a.twiddles);
    sum = {sum.x + quad.x, sum.y + quad.y, sum.z + quad.z, sum.w + quad.w};
  }
  store_quad(a.grad + i, sum);
}

}  // namespace kserve::cuda
