#include "emulator.h"

#include <algorithm>
#include <array>

#include "../dispatch.h"

namespace kserve::cuda {

namespace {
constexpr std::size_t kStackBytes = 64 * 1024;
constexpr int kWarp = 32, kBanks = 32;
}  // namespace

EmulatedBlock::EmulatedBlock(int blocks, int threads, int shared_bytes, Findings& findings)
    : threads_(threads),
      shared_(static_cast<std::size_t>(blocks)),
      fibers_(static_cast<std::size_t>(blocks * threads)),
      clocks_(static_cast<std::size_t>(blocks)),
      findings_(findings) {
  for (auto& memory : shared_) memory.resize(static_cast<std::size_t>(shared_bytes) / 4);
  for (Fiber& fiber : fibers_) fiber.stack.resize(kStackBytes);
}

// makecontext passes ints only: the object's address comes in two halves.
void EmulatedBlock::enter(unsigned high, unsigned low) {
  auto* block = reinterpret_cast<EmulatedBlock*>(static_cast<std::uintptr_t>(high) << 32 | low);
  (*block->kernel_)(*block);
  block->fibers_[static_cast<std::size_t>(block->current_)].ended = true;
}

void EmulatedBlock::run(std::int64_t first, const std::function<void(EmulatedBlock&)>& kernel) {
  first_ = first;
  kernel_ = &kernel;
  for (auto& memory : shared_) std::fill(memory.begin(), memory.end(), Cell());
  std::fill(clocks_.begin(), clocks_.end(), Moment{0, 0});
  for (Fiber& fiber : fibers_) start_fiber(fiber);
  do {
    run_fibers();
  } while (release());
}

void EmulatedBlock::start_fiber(Fiber& fiber) {
  const auto self = reinterpret_cast<std::uintptr_t>(this);
  fiber.ended = false;
  fiber.waiting = kNothing;
  fiber.trace.clear();
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.data();
  fiber.context.uc_stack.ss_size = fiber.stack.size();
  fiber.context.uc_link = &scheduler_;
  makecontext(&fiber.context, reinterpret_cast<void (*)()>(&EmulatedBlock::enter), 2,
              static_cast<unsigned>(self >> 32), static_cast<unsigned>(self));
}

// Threads run in turn, and backward in every other round: nothing may depend on their order.
void EmulatedBlock::run_fibers() {
  const int count = static_cast<int>(fibers_.size());
  ++rounds_;
  for (int i = 0; i < count; ++i) {
    current_ = rounds_ % 2 == 0 ? i : count - 1 - i;
    Fiber& fiber = fibers_[static_cast<std::size_t>(current_)];
    if (!fiber.ended && fiber.waiting == kNothing) swapcontext(&scheduler_, &fiber.context);
  }
}

void EmulatedBlock::wait(Waiting what) {
  Fiber& fiber = fibers_[static_cast<std::size_t>(current_)];
  fiber.waiting = what;
  swapcontext(&fiber.context, &scheduler_);
}

bool EmulatedBlock::all_wait(std::size_t begin, std::size_t end, Waiting what) const {
  for (std::size_t i = begin; i < end; ++i) {
    if (fibers_[i].ended || fibers_[i].waiting != what) return false;
  }
  return true;
}

void EmulatedBlock::wake(std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) fibers_[i].waiting = kNothing;
}

// Opens the barriers that all of their threads have reached. False if everything has ended, or nothing can go
// on because threads wait at different barriers or have ended while others wait.
bool EmulatedBlock::release() {
  const std::size_t all = fibers_.size(), size = static_cast<std::size_t>(threads_);
  for (std::size_t begin = 0; begin < all; begin += size) count_conflicts(begin, begin + size);
  if (all_wait(0, all, kCluster)) {
    for (Moment& clock : clocks_) clock = {clock.cluster + 1, 0};
    wake(0, all);
    return true;
  }
  bool opened = false;
  for (std::size_t begin = 0; begin < all; begin += size) {
    if (!all_wait(begin, begin + size, kBlock)) continue;
    ++clocks_[begin / size].block;
    wake(begin, begin + size);
    opened = true;
  }
  for (const Fiber& fiber : fibers_) {
    if (!opened && !fiber.ended) {
      ++findings_.diverged;
      return false;
    }
  }
  return opened;
}

EmulatedBlock::Moment EmulatedBlock::now() const {
  return clocks_[static_cast<std::size_t>(current_ / threads_)];
}

// Whether no barrier lies between then, when thread `other` did something, and now.
bool EmulatedBlock::may_collide(const Moment& then, int other, int other_block) const {
  const Moment moment = now();
  if (other == current_ || then.cluster != moment.cluster) return false;
  return other_block != current_ / threads_ || then.block == moment.block;
}

EmulatedBlock::Cell* EmulatedBlock::touch(int rank, int i) {
  if (rank == current_ / threads_) fibers_[static_cast<std::size_t>(current_)].trace.push_back(i);
  auto& memory = shared_[static_cast<std::size_t>(rank)];
  if (i >= 0 && static_cast<std::size_t>(i) < memory.size()) return &memory[static_cast<std::size_t>(i)];
  ++findings_.outside;
  return nullptr;
}

float EmulatedBlock::get(int i) { return get_from(current_ / threads_, i); }

void EmulatedBlock::set(int i, float value) { set_to(current_ / threads_, i, value); }

float EmulatedBlock::get_from(int rank, int i) {
  Cell* cell = touch(rank, i);
  if (cell == nullptr) return 0.0F;
  const int block = current_ / threads_;
  if (!cell->written) ++findings_.unwritten;
  if (may_collide(cell->write, cell->writer, cell->writer / threads_)) ++findings_.races;
  const bool others = may_collide(cell->read, cell->reader, cell->reader_block);
  cell->reader_block = others && cell->reader_block != block ? kSeveral : block;
  cell->reader = others ? kSeveral : current_;
  cell->read = now();
  return cell->value;
}

void EmulatedBlock::set_to(int rank, int i, float value) {
  Cell* cell = touch(rank, i);
  if (cell == nullptr) return;
  if (may_collide(cell->write, cell->writer, cell->writer / threads_)) ++findings_.races;
  if (may_collide(cell->read, cell->reader, cell->reader_block)) ++findings_.races;
  cell->write = now();
  cell->writer = current_;
  cell->written = true;
  cell->value = value;
}

// The k-th access of each thread of a warp happens at once; it takes as many wavefronts as the busiest bank
// has different addresses.
void EmulatedBlock::count_conflicts(std::size_t begin, std::size_t end) {
  for (std::size_t warp = begin; warp < end; warp += kWarp) {
    const std::size_t last = std::min(end, warp + kWarp);
    std::size_t longest = 0;
    for (std::size_t t = warp; t < last; ++t) longest = std::max(longest, fibers_[t].trace.size());
    for (std::size_t k = 0; k < longest; ++k) {
      std::array<std::vector<int>, kBanks> banks;
      std::size_t wavefronts = 1;
      for (std::size_t t = warp; t < last; ++t) {
        if (k >= fibers_[t].trace.size()) continue;
        const int address = fibers_[t].trace[k];
        std::vector<int>& bank = banks[static_cast<std::size_t>(address) % kBanks];
        if (std::find(bank.begin(), bank.end(), address) == bank.end()) bank.push_back(address);
        wavefronts = std::max(wavefronts, bank.size());
      }
      ++findings_.accesses;
      findings_.wavefronts += static_cast<std::int64_t>(wavefronts);
    }
    for (std::size_t t = warp; t < last; ++t) fibers_[t].trace.clear();
  }
}

namespace {

// Of an H100 with few processors, so that tests of few rows reach every branch.
Limits emulated_limits = {4, 227 * 1024, 228 * 1024, kLevels};
Findings findings;

class EmulatedLauncher {
 public:
  int limits(Limits& limits) const {
    limits = emulated_limits;
    return kFine;
  }

  template <class X, class W>
  int forward(const Plan& plan, const ForwardArguments<X, W>& arguments) const {
    return launch(plan, [&](EmulatedBlock& block) { forward_block(block, arguments); });
  }

  template <class X, class W>
  int backward(const Plan& plan, const BackwardArguments<X, W>& arguments) const {
    return launch(plan, [&](EmulatedBlock& block) { backward_block(block, arguments); });
  }

  template <class W>
  int sum(const SumArguments<W>& arguments) const {
    const std::int64_t quads = arguments.stacks * arguments.twiddles / 4;
    EmulatedBlock block(1, kMaxThreads, 0, findings);
    for (std::int64_t index = 0; index * kMaxThreads < quads; ++index) {
      block.run(index, [&](EmulatedBlock& one) { sum_block(one, arguments); });
    }
    return kFine;
  }

 private:
  // The last blocks first: none may wait for another outside of its cluster.
  static int launch(const Plan& plan, const std::function<void(EmulatedBlock&)>& kernel) {
    EmulatedBlock block(plan.cut.cluster(), plan.threads(), plan.shared_bytes, findings);
    for (std::int64_t first = plan.blocks_of_threads; first > 0;) {
      first -= plan.cut.cluster();
      block.run(first, kernel);
    }
    return kFine;
  }
};

}  // namespace
}  // namespace kserve::cuda

using kserve::cuda::EmulatedLauncher;
using kserve::cuda::Sizes;

extern "C" {

void kserve_butterfly_emulate(int processors, int shared_bytes, int log_cluster) {
  kserve::cuda::emulated_limits = {processors, shared_bytes, shared_bytes + 1024, log_cluster};
}

// races, unwritten, outside, diverged, accesses, wavefronts since the last call.
void kserve_butterfly_findings(std::int64_t* six_numbers) {
  const kserve::cuda::Findings& f = kserve::cuda::findings;
  const std::int64_t all[] = {f.races, f.unwritten, f.outside, f.diverged, f.accesses, f.wavefronts};
  for (const std::int64_t number : all) *six_numbers++ = number;
  kserve::cuda::findings = {};
}
}

int kserve_butterfly_forward(const Sizes* sizes, const kserve_butterfly_forward_arrays* arrays, void*) {
  EmulatedLauncher launcher;
  return kserve::cuda::run_forward(launcher, *sizes, *arrays);
}

int kserve_butterfly_workspace(const Sizes* sizes, std::int64_t* bytes) {
  EmulatedLauncher launcher;
  return kserve::cuda::run_workspace(launcher, *sizes, *bytes);
}

int kserve_butterfly_backward(const Sizes* sizes, const kserve_butterfly_backward_arrays* arrays, void*) {
  EmulatedLauncher launcher;
  return kserve::cuda::run_backward(launcher, *sizes, *arrays);
}

int kserve_butterfly_plan(const Sizes* sizes, int backward, std::int64_t* eight_numbers) {
  EmulatedLauncher launcher;
  return kserve::cuda::run_plan(launcher, *sizes, backward != 0, eight_numbers);
}

const char* kserve_butterfly_error(int code) {
  const char* text = kserve::cuda::own_error(code);
  return text == nullptr ? "unknown error" : text;
}
