// How a launch is cut into blocks, threads and tiles, from the sizes and the limits of the device.
#pragma once

#include "backward.h"
#include "forward.h"

namespace kserve::cuda {

// The sizes of a multiply, as callers give them; types: 0 float32, 1 bfloat16.
struct Sizes {
  std::int64_t rows;
  std::int32_t in, out, tile, log_n, blocks;
  std::int32_t x_type, twiddle_type;
  std::int32_t device;  // its number
};

struct Limits {
  int processors;          // streaming multiprocessors
  int shared_bytes;        // shared memory that one block may have
  int shared_bytes_total;  // that of a multiprocessor, for all of its blocks
  int log_cluster;         // up to 2^log_cluster blocks may form a cluster, at most 8
};

struct Plan {
  Cut cut;
  int grid_rows, grid_cols;
  std::int64_t blocks_of_threads;
  int shared_bytes;
  int workers, segment;       // backward
  std::int64_t partial_size;  // floats
  std::int64_t scratch_size;

  int threads() const { return 1 << cut.log_threads; }
  bool fits() const { return blocks_of_threads > 0; }
};

enum Error { kFine = 0, kBadSizes = 1, kTooLarge = 2, kBadType = 3, kCudaBase = 1000 };

// Whether the sizes describe a multiply that the kernels can do on a device that is large enough.
Error check(const Sizes& sizes);

// The plan that should take least time; `fits()` is false if one row is too large for the device.
Plan plan_forward(const Sizes& sizes, const Limits& limits);
Plan plan_backward(const Sizes& sizes, const Limits& limits);

// What the arguments of both directions begin with.
template <class Arguments>
Arguments common_arguments(const Sizes& sizes, const Plan& plan) {
  Arguments a = {};
  a.cut = plan.cut;
  a.rows = sizes.rows;
  a.in = sizes.in;
  a.out = sizes.out;
  a.tile = sizes.tile;
  a.grid_rows = plan.grid_rows;
  a.grid_cols = plan.grid_cols;
  return a;
}

template <class X, class W>
ForwardArguments<X, W> forward_arguments(const Sizes& sizes, const Plan& plan) {
  return common_arguments<ForwardArguments<X, W>>(sizes, plan);
}

template <class X, class W>
BackwardArguments<X, W> backward_arguments(const Sizes& sizes, const Plan& plan) {
  auto a = common_arguments<BackwardArguments<X, W>>(sizes, plan);
  a.workers = plan.workers;
  a.segment = plan.segment;
  return a;
}

}  // namespace kserve::cuda
