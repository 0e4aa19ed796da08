// Index arithmetic of the butterfly kernels: which thread holds which numbers in which pass.
//
// A K-matrix of size n = 2^log_n is a product of `blocks` butterflies; even ones run through falling, odd
// ones through rising strides. Three neighbouring factors make a pass: it mixes groups of eight numbers at
// distance 2^low, and one thread has a whole group in registers. Between passes the rows of a tile lie in
// shared memory, one after the other.
//
// A cluster of 2^log_cluster blocks of threads may share a tile: each has a slice of every row, and of the
// twiddles only those of its own groups. Only the passes with the widest strides (three of the log_n factors
// of a butterfly) reach into the shared memory of the other blocks.
#pragma once

#include "portable.h"

namespace kserve::cuda {

constexpr int kGroup = 8;   // numbers of a group
constexpr int kLevels = 3;  // factors of a pass: 2^3 = 8
constexpr int kPairs = 4;   // pairs of a group in one factor
constexpr int kMaxThreads = 256;
constexpr int kMaxLog = 14;  // n up to 16 384

// How a launch cuts its work; the same for every thread.
struct Cut {
  int log_n, blocks;
  int log_cluster;
  int log_row;      // a block's slice of a row has 2^log_row >= 8 numbers
  int log_groups;   // groups of a slice
  int log_threads;  // threads of a block
  int tile_rows;    // rows of a tile, at most
  int region;       // numbers of a block's slice of a tile, a multiple of 32

  // Groups of a thread if there are more than threads, and threads of a group if there are fewer.
  KSERVE_BOTH int log_turns() const { return log_groups > log_threads ? log_groups - log_threads : 0; }
  KSERVE_BOTH int turns() const { return 1 << log_turns(); }
  KSERVE_BOTH int slots() const { return log_groups < log_threads ? 1 << (log_threads - log_groups) : 1; }

  KSERVE_BOTH int cluster() const { return 1 << log_cluster; }
  KSERVE_BOTH int windows() const { return (log_n + kLevels - 1) / kLevels; }
  KSERVE_BOTH int passes() const { return blocks * windows(); }
  KSERVE_BOTH int twiddles() const { return (blocks * log_n) << (log_n + 1); }
};

// One pass: factor `low + q` of butterfly `block` takes part if bit q of `active` is set; `wide` if its
// groups reach over the slices of a cluster.
struct Pass {
  int block, low, active;
  bool rising, wide;
};

// Windows of three factors are counted from the widest strides down, so that only the lowest may have fewer
// and only the highest is wide.
KSERVE_BOTH Pass pass_at(const Cut& cut, int index) {
  const int windows = cut.windows();
  Pass pass;
  pass.block = index / windows;
  pass.rising = pass.block % 2 == 1;
  const int step = index % windows;
  const int below = pass.rising ? windows - 1 - step : step;  // windows above this one
  const int end = cut.log_n - kLevels * below;
  pass.low = larger(0, end - kLevels);
  pass.active = (1 << (end - pass.low)) - 1;
  pass.wide = cut.log_cluster > 0 && below == 0;
  return pass;
}

// What a thread does in one turn of a pass: rows slot, slot + slots, ... of a group; groups are counted
// within the slice.
struct Place {
  int group, slot;
};

KSERVE_BOTH Place place_of(const Cut& cut, int thread, int turn) {
  if (cut.log_groups >= cut.log_threads) return {(turn << cut.log_threads) | thread, 0};
  return {thread & ((1 << cut.log_groups) - 1), thread >> cut.log_groups};
}

// The number in a row that is first in a group; the others follow at distance 2^low.
KSERVE_BOTH int first_number(int group, int low) {
  return ((group >> low) << (low + kLevels)) | (group & ((1 << low) - 1));
}

// The first of a group's pairs in any factor of the pass; the others follow at distance 2^low.
KSERVE_BOTH int first_pair(int group, int low) {
  return ((group >> low) << (low + kLevels - 1)) | (group & ((1 << low) - 1));
}

// The lower member of a pair in the factor of bit `level`: `pair` with a zero bit put in there.
KSERVE_BOTH constexpr int lower_member(int pair, int level) {
  return ((pair >> level) << (level + 1)) | (pair & ((1 << level) - 1));
}

// Where number i of a tile lies. The threads of a warp hold neighbouring groups, whose numbers differ in all
// of the bits 0 ... 7 but three neighbouring ones, or neighbouring quads, which differ in bits 2 ... 6. Bits
// 5, 6, 7 are folded into the five bits that choose the bank such that each of these sets gives 32 different
// banks (found by trying all foldings). Linear: swizzle(a ^ b) = swizzle(a) ^ swizzle(b).
KSERVE_BOTH int swizzle(int i) { return i ^ ((i >> 5 & 1) * 5) ^ ((i >> 6 & 1) * 10) ^ ((i >> 7 & 1) * 19); }

// Where the eight numbers of a group lie: number j in block j >> rank_shift of the cluster if the pass is
// wide, else in the thread's own, at first ^ (the steps of the bits of j).
struct Addresses {
  int first, one, two, four;
  int rank_shift;
  bool wide;

  KSERVE_BOTH int of(int j) const {
    return first ^ (j & 1 ? one : 0) ^ (j & 2 ? two : 0) ^ (j & 4 ? four : 0);
  }
  // The same group in another row.
  KSERVE_BOTH Addresses in_row(const Cut& cut, int row) const {
    Addresses result = *this;
    result.first ^= swizzle(row << cut.log_row);
    return result;
  }
};

// `group` within the slice of block `rank`.
KSERVE_BOTH Addresses addresses(const Cut& cut, const Pass& pass, int rank, int group) {
  Addresses at = {swizzle(first_number(group, pass.low)),
                  swizzle(1 << pass.low),
                  swizzle(2 << pass.low),
                  swizzle(4 << pass.low),
                  kLevels - cut.log_cluster,
                  pass.wide};
  if (pass.wide) {
    // In the widest window the group's number is its place in the row; the bits of j that choose the block of
    // the cluster do not move it.
    at.first = swizzle(rank << cut.log_groups | group);
    if (at.rank_shift < 3) at.four = 0;
    if (at.rank_shift < 2) at.two = 0;
    if (at.rank_shift < 1) at.one = 0;
  }
  return at;
}

}  // namespace kserve::cuda
