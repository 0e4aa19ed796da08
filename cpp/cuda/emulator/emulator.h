// A cluster of blocks of CUDA threads on the host, for tests: every thread is a fiber, a barrier waits for
// all of them, and shared memory is watched for what a GPU would do silently: races, reads of what was never
// written, addresses outside, barriers that not all threads reach, bank conflicts.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "../schedule.h"

namespace kserve::cuda {

// What was seen since the last report.
struct Findings {
  std::int64_t races = 0, unwritten = 0, outside = 0, diverged = 0;
  std::int64_t accesses = 0;    // of a warp to its block's shared memory
  std::int64_t wavefronts = 0;  // what they take; equal to accesses without bank conflicts
};

// The block of threads as the kernels see it: whichever one the running fiber belongs to.
class EmulatedBlock {
 public:
  // A cluster of `blocks` blocks.
  EmulatedBlock(int blocks, int threads, int shared_bytes, Findings& findings);

  // Runs `kernel` as the blocks `first` ... of a grid.
  void run(std::int64_t first, const std::function<void(EmulatedBlock&)>& kernel);

  int thread() const { return current_ % threads_; }
  int threads() const { return threads_; }
  std::int64_t index() const { return first_ + current_ / threads_; }
  int rank(const Cut&) const { return current_ / threads_; }
  void barrier() { wait(kBlock); }
  void cluster_barrier() { wait(kCluster); }
  float get(int i);
  void set(int i, float value);
  float get_from(int rank, int i);
  void set_to(int rank, int i, float value);

 private:
  enum Waiting { kNothing, kBlock, kCluster };
  // When something happened: how many barriers of the cluster, and of the block, were before it.
  struct Moment {
    std::int64_t cluster = -1, block = -1;
  };
  struct Cell {
    float value = 0.0F;
    Moment write, read;
    int writer = -1, reader = -1;  // threads; of several readers, nobody
    int reader_block = -1;         // of several blocks, none
    bool written = false;
  };
  struct Fiber {
    ucontext_t context;
    std::vector<char> stack;
    std::vector<int> trace;  // addresses in the own block since its last barrier
    Waiting waiting = kNothing;
    bool ended = false;
  };

  static void enter(unsigned high, unsigned low);
  void wait(Waiting what);
  void start_fiber(Fiber& fiber);
  void run_fibers();
  bool release();
  bool all_wait(std::size_t begin, std::size_t end, Waiting what) const;
  void wake(std::size_t begin, std::size_t end);
  void count_conflicts(std::size_t begin, std::size_t end);
  Cell* touch(int rank, int i);
  Moment now() const;
  bool may_collide(const Moment& then, int other, int other_block) const;

  static constexpr int kSeveral = -2;
  int threads_;
  std::vector<std::vector<Cell>> shared_;  // by block
  std::vector<Fiber> fibers_;
  std::vector<Moment> clocks_;  // by block
  ucontext_t scheduler_;
  Findings& findings_;
  const std::function<void(EmulatedBlock&)>* kernel_ = nullptr;
  std::int64_t first_ = 0, rounds_ = 0;
  int current_ = 0;
};

}  // namespace kserve::cuda
