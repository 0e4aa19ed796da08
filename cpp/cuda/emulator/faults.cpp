// Kernels with faults, for the emulator's own test: each must be found, and the sound one must not.
#include <cstdint>

#include "emulator.h"

namespace kserve::cuda {
namespace {

constexpr int kThreads = 64, kFloats = 256;

// Every thread's own number, which its neighbour reads.
void exchange(EmulatedBlock& block, bool with_barrier) {
  block.set(block.thread(), 1.0F);
  block.barrier();
  block.set(block.thread(), 2.0F);
  if (with_barrier) block.barrier();
  block.get((block.thread() + 1) % kThreads);
}

// The same across the two blocks of a cluster.
void exchange_wide(EmulatedBlock& block, bool with_cluster_barrier) {
  const int rank = block.rank({});
  block.set(block.thread(), 1.0F);
  block.cluster_barrier();
  block.set(block.thread(), 2.0F);
  if (with_cluster_barrier) {
    block.cluster_barrier();
  } else {
    block.barrier();
  }
  block.get_from(1 - rank, block.thread());
}

void write_what_others_read(EmulatedBlock& block) {
  if (block.thread() == 0) block.set(0, 1.0F);
  block.barrier();
  block.get(0);
  if (block.thread() == kThreads - 1) block.set(0, 2.0F);
}

void leave_early(EmulatedBlock& block) {
  if (block.thread() > 0) block.barrier();
}

void read_unwritten(EmulatedBlock& block) { block.get(block.thread()); }

void reach_outside(EmulatedBlock& block) { block.set(kFloats + block.thread(), 1.0F); }

void stride_of_two(EmulatedBlock& block) { block.set(2 * block.thread(), 1.0F); }

void run_case(int number, EmulatedBlock& block) {
  switch (number) {
    case 0:
      return exchange(block, true);
    case 1:
      return exchange(block, false);
    case 2:
      return exchange_wide(block, true);
    case 3:
      return exchange_wide(block, false);
    case 4:
      return write_what_others_read(block);
    case 5:
      return leave_early(block);
    case 6:
      return read_unwritten(block);
    case 7:
      return reach_outside(block);
    default:
      return stride_of_two(block);
  }
}

}  // namespace
}  // namespace kserve::cuda

// What is found in case `number`, as kserve_butterfly_findings tells it.
extern "C" void kserve_emulator_fault(int number, std::int64_t* six_numbers) {
  using kserve::cuda::EmulatedBlock;
  kserve::cuda::Findings found;
  EmulatedBlock block(2, kserve::cuda::kThreads, kserve::cuda::kFloats * 4, found);
  block.run(0, [number](EmulatedBlock& one) { kserve::cuda::run_case(number, one); });
  const std::int64_t all[] = {found.races,    found.unwritten, found.outside,
                              found.diverged, found.accesses,  found.wavefronts};
  for (const std::int64_t one : all) *six_numbers++ = one;
}
