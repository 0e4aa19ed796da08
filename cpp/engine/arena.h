// One block of memory for a sentence or a worker, laid out at once; no allocation while decoding.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>

namespace kserve {

// Hands out consecutive, 64-byte aligned pieces. Without a block it only counts, so the same layout function
// first measures the block and then fills it.
class Arena {
 public:
  static constexpr std::size_t kAlignment = 64;  // one AVX-512 register, one cache line

  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // `count` uninitialised objects, or null while measuring.
  template <class T>
  T* take(std::size_t count) {
    static_assert(std::is_trivially_destructible_v<T>, "the arena never runs destructors");
    const std::size_t offset = used_;
    used_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    peak_ = std::max(peak_, used_);
    return block_ ? reinterpret_cast<T*>(block_.get() + offset) : nullptr;
  }

  // Everything taken after mark() may be given back by rewind(), so that stages which do not overlap in time
  // share memory.
  std::size_t mark() const { return used_; }
  void rewind(std::size_t mark) { used_ = mark; }

  // Largest size in bytes that was in use at one time.
  std::size_t peak() const { return peak_; }
  std::size_t capacity() const { return capacity_; }

  // Makes room for `bytes` and starts again from the beginning; what was taken before is lost.
  void reserve(std::size_t bytes) {
    used_ = peak_ = 0;
    if (bytes <= capacity_) return;
    block_.reset();
    capacity_ = 0;
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
    if (!block_) throw std::bad_alloc();
    capacity_ = rounded;
  }

 private:
  struct Free {
    void operator()(std::byte* block) const { std::free(block); }
  };
  std::unique_ptr<std::byte, Free> block_;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  std::size_t peak_ = 0;
};

}  // namespace kserve
