#include "plan.h"

#include <algorithm>

namespace kserve::cuda {
namespace {

constexpr std::int64_t kPartialBytes = std::int64_t{1} << 28;  // at most, for the twiddles' partial gradients
constexpr int kRows[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64};  // of a tile
constexpr int kLeastClustered = 9;  // log2 n; below, slices are too small to pay

// What a multiprocessor of an H100 does in a cycle, from its data sheet and with half of its peak for
// arithmetic: plans are compared by the cycles that follow. Nothing depends on them but speed.
constexpr double kMultiplyAdds = 64;
constexpr double kBytesAlone = 50;     // from the second-level cache, if few blocks read
constexpr double kBytesTogether = 24;  // if all do
constexpr double kPassCycles = 200;    // barrier and latencies of a pass
constexpr double kWideCycles = 900;    // of one that reaches over a cluster

int log2_ceil(std::int64_t value) {
  int log = 0;
  while (std::int64_t{1} << log < value) ++log;
  return log;
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Numbers of a region: a multiple of 32, within which the swizzle stays.
std::int64_t region(const Cut& cut, int rows) {
  return ceil_div(static_cast<std::int64_t>(rows) << cut.log_row, 32) * 32;
}

std::int64_t bytes(const Cut& cut, int rows, int regions) { return region(cut, rows) * regions * 4; }

// What follows from the sizes, a cluster and the rows of a tile.
Plan start(const Sizes& sizes, int log_cluster, int rows) {
  Plan plan = {};
  Cut& cut = plan.cut;
  cut.log_n = sizes.log_n;
  cut.blocks = sizes.blocks;
  cut.log_cluster = log_cluster;
  cut.log_row = std::max(sizes.log_n - log_cluster, kLevels);
  cut.log_groups = cut.log_row - kLevels;
  cut.tile_rows = rows;
  cut.region = static_cast<int>(region(cut, rows));
  cut.log_threads =
      std::clamp(log2_ceil(static_cast<std::int64_t>(rows) << cut.log_groups), 5, log2_ceil(kMaxThreads));
  plan.grid_rows = static_cast<int>(ceil_div(sizes.out, sizes.tile));
  plan.grid_cols = static_cast<int>(ceil_div(sizes.in, sizes.tile));
  return plan;
}

// Cycles that a block needs for one tile of one square, `sweeps` times through its factors, reading or
// writing `twiddle_bytes` on the way.
double tile_cycles(const Cut& cut, double sweeps, double twiddle_bytes) {
  const double factors = static_cast<double>(cut.blocks) * cut.log_n;
  const double share = 1.0 / cut.cluster();
  const double arithmetic = 2.0 * factors * cut.tile_rows * (1 << cut.log_n) * share / kMultiplyAdds;
  const double wide = cut.log_cluster > 0 ? cut.blocks * kWideCycles : 0.0;
  return std::max(sweeps * arithmetic, twiddle_bytes * share / kBytesAlone) +
         sweeps * (cut.passes() * kPassCycles + wide);
}

// Cycles of `tiles` such pieces of work on all multiprocessors, which share the cache.
double total_cycles(const Cut& cut, const Limits& limits, double tiles, double cycles, double twiddle_bytes) {
  const double waves =
      static_cast<double>(ceil_div(static_cast<std::int64_t>(tiles) << cut.log_cluster, limits.processors));
  return std::max(waves * cycles, tiles * twiddle_bytes / (limits.processors * kBytesTogether));
}

int twiddle_size(const Sizes& sizes) { return sizes.twiddle_type == 0 ? 4 : 2; }

double forward_cycles(const Sizes& sizes, const Limits& limits, const Plan& plan) {
  const double traffic = static_cast<double>(plan.cut.twiddles()) * twiddle_size(sizes);
  const double tiles = static_cast<double>(ceil_div(sizes.rows, plan.cut.tile_rows)) * plan.grid_rows;
  return plan.grid_cols * total_cycles(plan.cut, limits, tiles, tile_cycles(plan.cut, 1.0, traffic), traffic);
}

// Forward sweeps recompute the inputs, once more if they do not all fit; backward ones do two and a half
// times the work. The partial gradients are read and written for each tile, and added up at the end.
double backward_cycles(const Sizes& sizes, const Limits& limits, const Plan& plan) {
  const double again = plan.segment < plan.cut.passes() ? 1.0 : 0.0;
  const double twiddles = plan.cut.twiddles();
  const double traffic = twiddles * ((2.0 + again) * twiddle_size(sizes) + 8.0);
  const double tiles = static_cast<double>(ceil_div(sizes.rows, plan.cut.tile_rows)) * plan.grid_cols;
  const double adding = static_cast<double>(plan.partial_size) * 4.0 / (limits.processors * kBytesTogether);
  const double tile = tile_cycles(plan.cut, 3.5 + again, traffic);
  return adding + plan.grid_rows * total_cycles(plan.cut, limits, tiles, tile, traffic);
}

bool clusters_pay(const Sizes& sizes, int log_cluster) {
  return log_cluster == 0 || sizes.log_n >= kLeastClustered;
}

Plan forward_with(const Sizes& sizes, int log_cluster, int rows) {
  Plan plan = start(sizes, log_cluster, rows);
  plan.shared_bytes = static_cast<int>(bytes(plan.cut, rows, plan.grid_cols > 1 ? 2 : 1));
  plan.blocks_of_threads = ceil_div(sizes.rows, rows) * plan.grid_rows << log_cluster;
  return plan;
}

// segment is 0 if not even one input fits.
Plan backward_with(const Sizes& sizes, const Limits& limits, int log_cluster, int rows) {
  Plan plan = start(sizes, log_cluster, rows);
  const Cut& cut = plan.cut;
  const int others = plan.grid_rows > 1 ? 2 : 1;  // the gradient, and its sum over the parts of the output
  const std::int64_t fit = limits.shared_bytes / bytes(cut, rows, 1) - others;
  plan.segment = static_cast<int>(std::clamp<std::int64_t>(fit, 0, cut.passes()));
  if (plan.segment == 0) return plan;
  plan.shared_bytes = static_cast<int>(bytes(cut, rows, plan.segment + others));
  const std::int64_t stacks = static_cast<std::int64_t>(plan.grid_rows) * plan.grid_cols;
  const std::int64_t copy = stacks * cut.slots() * cut.twiddles();
  const std::int64_t busy = limits.processors / (plan.grid_cols << log_cluster);
  plan.workers = static_cast<int>(
      std::max<std::int64_t>(1, std::min({ceil_div(sizes.rows, rows), busy, kPartialBytes / (4 * copy)})));
  plan.blocks_of_threads = static_cast<std::int64_t>(plan.workers) * plan.grid_cols << log_cluster;
  plan.partial_size = copy * plan.workers;
  const int segments = (cut.passes() + plan.segment - 1) / plan.segment;
  plan.scratch_size = plan.blocks_of_threads * std::max(0, segments - 2) * cut.region;
  return plan;
}

// The cheapest of make(log_cluster, rows) by cost(plan), if one fits; where one does not, those with more
// rows do not either.
template <class Make, class Fits, class Cost>
Plan cheapest(const Sizes& sizes, const Limits& limits, Make make, Fits fits, Cost cost) {
  Plan best = {};
  double best_cost = -1.0;
  for (int log_cluster = 0; log_cluster <= limits.log_cluster; ++log_cluster) {
    if (!clusters_pay(sizes, log_cluster)) break;
    for (const int rows : kRows) {
      const Plan plan = make(log_cluster, static_cast<int>(std::min<std::int64_t>(rows, sizes.rows)));
      if (!fits(plan)) break;
      const double now = cost(plan);
      if (best_cost >= 0.0 && now >= best_cost) continue;
      best = plan;
      best_cost = now;
    }
  }
  return best;
}

}  // namespace

Error check(const Sizes& sizes) {
  if (sizes.rows < 1 || sizes.in < 1 || sizes.out < 1 || sizes.tile < 1 || sizes.blocks < 1) return kBadSizes;
  if (sizes.log_n < 1 || sizes.log_n > kMaxLog || sizes.tile > 1 << sizes.log_n) return kBadSizes;
  if (sizes.x_type < 0 || sizes.x_type > 1 || sizes.twiddle_type < 0 || sizes.twiddle_type > 1) {
    return kBadType;
  }
  // A square's twiddles are counted in 31 bits.
  return static_cast<std::int64_t>(sizes.blocks) * sizes.log_n << (sizes.log_n + 1) > INT32_MAX ? kTooLarge
                                                                                                : kFine;
}

Plan plan_forward(const Sizes& sizes, const Limits& limits) {
  return cheapest(
      sizes, limits, [&](int log_cluster, int rows) { return forward_with(sizes, log_cluster, rows); },
      // Two blocks on a multiprocessor hide each other's barriers, so a tile of several rows leaves room for
      // one.
      [&](const Plan& plan) {
        const int half = limits.shared_bytes_total / 2 - 1024;
        return plan.shared_bytes <=
               (plan.cut.tile_rows > 1 ? std::min(half, limits.shared_bytes) : limits.shared_bytes);
      },
      [&](const Plan& plan) { return forward_cycles(sizes, limits, plan); });
}

Plan plan_backward(const Sizes& sizes, const Limits& limits) {
  return cheapest(
      sizes, limits,
      [&](int log_cluster, int rows) { return backward_with(sizes, limits, log_cluster, rows); },
      [](const Plan& plan) { return plan.segment > 0; },
      [&](const Plan& plan) { return backward_cycles(sizes, limits, plan); });
}

}  // namespace kserve::cuda
