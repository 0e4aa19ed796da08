// The only user of OpenMP. No thread is started before a call has at least two pieces of work for two
// threads.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace kserve {

// ThreadSanitizer cannot see how the OpenMP run-time makes a team begin and end together, so it is told: what
// happened before happens_before(place) has happened after happens_after(place).
#if defined(__SANITIZE_THREAD__)
inline void happens_before(char& place) { __tsan_release(&place); }
inline void happens_after(char& place) { __tsan_acquire(&place); }
#else
inline void happens_before(char&) {}
inline void happens_after(char&) {}
#endif
inline char team_begins, team_ends;

// Whether this process may start a team. The OpenMP run-time's threads do not survive fork(): a child of a
// process that had already used them would wait for them for ever, so such a child works on one thread.
inline bool may_start_threads() {
  static std::atomic<pid_t> owner{0};
  const pid_t self = getpid();
  pid_t expected = 0;
  return owner.compare_exchange_strong(expected, self) || expected == self;
}

// Calls body(i) for i in 0 ... count-1 on at most `threads` threads, in any order. The first exception stops
// the pieces that have not started and is thrown again here.
template <class Body>
void parallel_for(std::size_t count, std::size_t threads, const Body& body) {
  if (threads <= 1 || count <= 1 || !may_start_threads()) {
    for (std::size_t i = 0; i < count; ++i) body(i);
    return;
  }
  std::exception_ptr failure;
  std::mutex failure_lock;
  std::atomic<bool> failed{false};
  const int team = static_cast<int>(count < threads ? count : threads);
  happens_before(team_begins);
#pragma omp parallel num_threads(team)
  {
    happens_after(team_begins);
#pragma omp for schedule(dynamic, 1) nowait
    for (std::size_t i = 0; i < count; ++i) {
      if (failed.load(std::memory_order_relaxed)) continue;
      try {
        body(i);
      } catch (...) {
        const std::lock_guard<std::mutex> guard(failure_lock);
        if (!failure) failure = std::current_exception();
        failed.store(true, std::memory_order_relaxed);
      }
    }
    happens_before(team_ends);
  }
  happens_after(team_ends);
  if (failure) std::rethrow_exception(failure);
}

}  // namespace kserve
