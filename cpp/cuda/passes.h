// Blocks of threads run passes over a tile in shared memory.
//
// `Block` is a block of threads: DeviceBlock on a GPU (butterfly.cu), EmulatedBlock on the host (emulator/).
// get and set reach its shared memory, whose unit is one float; get_from and set_to that of block `rank` of
// its cluster.
#pragma once

#include "window.h"

namespace kserve::cuda {

// Passes first ... last - 1; the k-th of them reads region at + k * step and writes region at + (k + 1) *
// step.
struct Run {
  int first, last, at, step;
};

// What a thread does at once: a group of its slice in one pass, from one region to another or the same.
struct Turn {
  Pass pass;
  int group, from, to;
};

template <class Block>
KSERVE_DEVICE void get_group(Block& block, int region, const Addresses& at, float (&x)[kGroup]) {
  if (at.wide) {
    KSERVE_UNROLLED
    for (int j = 0; j < kGroup; ++j) x[j] = block.get_from(j >> at.rank_shift, region + at.of(j));
    return;
  }
  KSERVE_UNROLLED
  for (int j = 0; j < kGroup; ++j) x[j] = block.get(region + at.of(j));
}

template <class Block>
KSERVE_DEVICE void set_group(Block& block, int region, const Addresses& at, const float (&x)[kGroup]) {
  if (at.wide) {
    KSERVE_UNROLLED
    for (int j = 0; j < kGroup; ++j) block.set_to(j >> at.rank_shift, region + at.of(j), x[j]);
    return;
  }
  KSERVE_UNROLLED
  for (int j = 0; j < kGroup; ++j) block.set(region + at.of(j), x[j]);
}

// All threads that share a tile wait for each other.
template <class Block>
KSERVE_DEVICE void meet(Block& block, bool cluster) {
  if (cluster) {
    block.cluster_barrier();
  } else {
    block.barrier();
  }
}

// The thread's group among those of the whole row.
template <class Block>
KSERVE_DEVICE int whole_group(Block& block, const Cut& cut, int group) {
  return block.rank(cut) << cut.log_groups | group;
}

// A thread's share of the rows.
template <class Block>
KSERVE_DEVICE void run_turn(Block& block, const Cut& cut, const Turn& turn, const Twiddles& twiddles,
                            int rows) {
  const Addresses first = addresses(cut, turn.pass, block.rank(cut), turn.group);
  KSERVE_ROLLED
  for (int row = place_of(cut, block.thread(), 0).slot; row < rows; row += cut.slots()) {
    const Addresses at = first.in_row(cut, row);
    float x[kGroup];
    get_group(block, turn.from, at, x);
    apply_pass(turn.pass, twiddles, x);
    set_group(block, turn.to, at, x);
  }
}

// The twiddles of the next turn are on their way while this one computes: with few rows the kernel waits for
// nothing else. A pass whose window is that of the one before (where a butterfly meets the next) finds its
// groups where the same threads left them and needs no barrier.
template <class W, class Block>
KSERVE_DEVICE void run_passes(Block& block, const Cut& cut, const W* twiddle, const Run& run, int rows) {
  const int log_turns = cut.log_turns(), items = (run.last - run.first) << log_turns;
  if (items <= 0) return;
  Pass pass = pass_at(cut, run.first);
  int group = place_of(cut, block.thread(), 0).group;
  Twiddles now = load_twiddles(cut, pass, whole_group(block, cut, group), twiddle);
  for (int item = 0; item < items; ++item) {
    const int index = item >> log_turns, next_turn = (item + 1) & (cut.turns() - 1);
    const bool more = item + 1 < items;
    const Pass next_pass = more && next_turn == 0 ? pass_at(cut, run.first + index + 1) : pass;
    const int next_group = place_of(cut, block.thread(), next_turn).group;
    const Twiddles next =
        more ? load_twiddles(cut, next_pass, whole_group(block, cut, next_group), twiddle) : now;
    const int from = run.at + index * run.step;
    run_turn(block, cut, Turn{pass, group, from, from + run.step}, now, rows);
    if (next_pass.low != pass.low) meet(block, pass.wide || next_pass.wide);
    pass = next_pass;
    group = next_group;
    now = next;
  }
}

}  // namespace kserve::cuda
