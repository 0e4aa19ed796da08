// The engine's memory for computing: arenas that are handed out under a lock and used again.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/arena.h"

namespace kserve {

class MemoryPool {
 public:
  // Idle arenas beyond this go back to the system, so that one burst does not keep its memory.
  static constexpr std::size_t kKeepBytes = std::size_t{16} << 20;
  // Sizes are rounded up to this, so that arenas of like sentences serve one another.
  static constexpr std::size_t kStep = std::size_t{64} << 10;

  // An arena for as long as the lease lives.
  class Lease {
   public:
    Lease(MemoryPool& pool, std::unique_ptr<Arena> arena) : pool_(&pool), arena_(std::move(arena)) {}
    Lease(Lease&&) = default;
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (arena_) pool_->give_back(std::move(arena_));
    }

    Arena& arena() { return *arena_; }

   private:
    MemoryPool* pool_;
    std::unique_ptr<Arena> arena_;
  };

  // An empty arena of at least so many bytes, but not of far more.
  Lease lease(std::size_t bytes);

  // Bytes of all arenas, idle or at work.
  std::size_t bytes() const;

 private:
  void give_back(std::unique_ptr<Arena> arena);

  mutable std::mutex lock_;
  std::vector<std::unique_ptr<Arena>> idle_;  // the one given back last is last
  std::size_t bytes_ = 0, idle_bytes_ = 0;
};

}  // namespace kserve
