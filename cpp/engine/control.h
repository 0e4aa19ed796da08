// How a caller ends a call before its time: cancellation, deadline, and a callback that may throw.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "engine/error.h"

namespace kserve {

// Set by any thread, once; looked at before every step of the calls that hold it.
class CancelToken {
 public:
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> cancelled_{false};
};

struct Control {
  std::shared_ptr<CancelToken> cancel;  // or null
  double deadline = 0.0;                // seconds from the start of the call; 0: none
  // Called from the thread that decodes, for every token but the end token: place of the sentence in the
  // call, token. What it throws ends the call. Greedy search and sampling only.
  std::function<void(std::int64_t, std::int32_t)> on_token;
};

// The control of one call at work, shared by its threads.
class Watch {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Watch(const Control& control) : control_(control) {
    if (control.deadline > 0.0) {
      end_ = Clock::now() +
             std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(control.deadline));
    }
  }

  // Throws CancelledError when the caller has cancelled.
  void check() const {
    if (control_.cancel && control_.cancel->cancelled()) {
      throw CancelledError("the call was cancelled, so it has no result");
    }
  }

  // Whether the deadline has passed. Does not look at the clock when there is none.
  bool expired() const { return control_.deadline > 0.0 && Clock::now() >= end_; }

  // One thread's failure ends the work of the others at their next step.
  void fail() { failed_.store(true, std::memory_order_relaxed); }
  bool failed() const { return failed_.load(std::memory_order_relaxed); }

 private:
  const Control& control_;
  Clock::time_point end_{};
  std::atomic<bool> failed_{false};
};

}  // namespace kserve
