// The engine's memory for computing: one arena per worker at work, handed out under a lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/arena.h"

namespace kserve {

class WorkspacePool {
 public:
  // A larger arena goes back to the system after its group, so that one huge call does not keep its memory.
  static constexpr std::size_t kKeepBytes = std::size_t{16} << 20;

  // An arena for as long as the lease lives.
  class Lease {
   public:
    Lease(WorkspacePool& pool, std::unique_ptr<Arena> arena) : pool_(pool), arena_(std::move(arena)) {}
    ~Lease() { pool_.give_back(std::move(arena_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    Arena& arena() { return *arena_; }

    // Makes room for `bytes` and counts them.
    void reserve(std::size_t bytes) {
      pool_.bytes_ -= arena_->capacity();
      arena_->reserve(bytes);
      pool_.bytes_ += arena_->capacity();
    }

   private:
    WorkspacePool& pool_;
    std::unique_ptr<Arena> arena_;
  };

  Lease lease() {
    const std::lock_guard<std::mutex> guard(lock_);
    if (idle_.empty()) return {*this, std::make_unique<Arena>()};
    std::unique_ptr<Arena> arena = std::move(idle_.back());
    idle_.pop_back();
    return {*this, std::move(arena)};
  }

  // Bytes of all arenas, idle or at work.
  std::size_t bytes() const { return bytes_; }

 private:
  void give_back(std::unique_ptr<Arena> arena) {
    if (arena->capacity() > kKeepBytes) {
      bytes_ -= arena->capacity();
      return;
    }
    const std::lock_guard<std::mutex> guard(lock_);
    idle_.push_back(std::move(arena));
  }

  std::mutex lock_;
  std::vector<std::unique_ptr<Arena>> idle_;
  std::atomic<std::size_t> bytes_{0};
};

}  // namespace kserve
