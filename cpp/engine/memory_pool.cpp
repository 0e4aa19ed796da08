#include "engine/memory_pool.h"

#include <algorithm>

namespace kserve {

MemoryPool::Lease MemoryPool::lease(std::size_t bytes) {
  const std::lock_guard<std::mutex> guard(lock_);
  const std::size_t rounded = (bytes + kStep - 1) / kStep * kStep;
  // The one used last is likeliest to be in the cache.
  const auto found = std::find_if(idle_.rbegin(), idle_.rend(), [=](const std::unique_ptr<Arena>& arena) {
    return arena->capacity() >= rounded && arena->capacity() <= 2 * rounded;
  });
  std::unique_ptr<Arena> arena;
  if (found != idle_.rend()) {
    arena = std::move(*found);
    idle_.erase(std::next(found).base());
    idle_bytes_ -= arena->capacity();
  } else {
    arena = std::make_unique<Arena>();
    arena->reserve(rounded);
    bytes_ += arena->capacity();
  }
  arena->reserve(0);
  return {*this, std::move(arena)};
}

void MemoryPool::give_back(std::unique_ptr<Arena> arena) {
  const std::lock_guard<std::mutex> guard(lock_);
  idle_bytes_ += arena->capacity();
  idle_.push_back(std::move(arena));
  while (idle_bytes_ > kKeepBytes) {
    idle_bytes_ -= idle_.front()->capacity();
    bytes_ -= idle_.front()->capacity();
    idle_.erase(idle_.begin());
  }
}

std::size_t MemoryPool::bytes() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return bytes_;
}

}  // namespace kserve
