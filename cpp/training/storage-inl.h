// Vectors of 16 lanes to and from memory that holds float or bfloat16; all arithmetic is in float. And
// dropout.
#pragma once

#include "training/table.h"
#include KSERVE_BITS  // set by the isa_*.cpp that is being compiled, beside KSERVE_VEC

namespace kserve::training {
namespace {

using kernels::for_each_vector;
using kernels::kLanes;
using kernels::Vec;

// A register of numbers that come from the same type and go there unchanged.
KSERVE_INLINE Reg load_register(const float* p) { return Reg::load(p); }
KSERVE_INLINE Reg load_register(const Bfloat* p) { return load_bfloat(p); }
KSERVE_INLINE void store_register(Reg x, float* p) { x.store(p); }
KSERVE_INLINE void store_register(Reg x, Bfloat* p) { store_exact_bfloat(x, p); }

KSERVE_INLINE Vec load(const float* p) { return Vec::load(p); }
KSERVE_INLINE Vec load(const Bfloat* p) {
  return Vec::of([=](std::size_t i) { return load_bfloat(p + i * Reg::kWidth); });
}
KSERVE_INLINE void store(Vec x, float* p) { x.store(p); }
KSERVE_INLINE void store(Vec x, Bfloat* p) {
  KSERVE_UNROLL
  for (std::size_t i = 0; i < Vec::kRegs; ++i) store_bfloat(x.r[i], p + i * Reg::kWidth);
}

// The first n lanes, n < 16; the others are zero, or left as they are in memory.
KSERVE_INLINE Vec load_first(const float* p, std::size_t n) { return Vec::load_first(p, n); }
KSERVE_INLINE Vec load_first(const Bfloat* p, std::size_t n) {
  Bfloat lanes[kLanes] = {};
  for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
KSERVE_INLINE void store_first(Vec x, float* p, std::size_t n) { x.store_first(p, n); }
KSERVE_INLINE void store_first(Vec x, Bfloat* p, std::size_t n) {
  Bfloat lanes[kLanes];
  store(x, lanes);
  for (std::size_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// The lanes i ... i + count - 1 of arrays: 16 but for the last ones, where those beyond are zero.
struct Lanes {
  std::size_t i, count;

  template <class T>
  KSERVE_INLINE Vec of(const T* p) const {
    return count == kLanes ? load(p + i) : load_first(p + i, count);
  }
  template <class T>
  KSERVE_INLINE void put(Vec x, T* p) const {
    if (count == kLanes) {
      store(x, p + i);
    } else {
      store_first(x, p + i, count);
    }
  }
  KSERVE_INLINE Vec masked(Vec x) const { return count == kLanes ? x : x.first_or(count, Vec::zero()); }
};

// Calls body(lanes) for every vector of 0 ... n - 1.
template <class Body>
KSERVE_INLINE void each_vector(std::size_t n, Body body) {
  for_each_vector(
      n, [&](std::size_t i) { body(Lanes{i, kLanes}); },
      [&](std::size_t i, std::size_t lanes) { body(Lanes{i, lanes}); });
}

template <class T>
float number(const T* p) {
  float lanes[kLanes];
  store(load_first(p, 1), lanes);
  return lanes[0];
}

// x with the dropped lanes zero and the others scaled, for the elements from number `first` on.
KSERVE_INLINE Vec drop(const Dropout& dropout, std::size_t first, Vec x) {
  if (dropout.threshold == 0) return x;
  const Vec scaled = x * Vec::broadcast(dropout.scale);
  const auto number = static_cast<std::uint32_t>(first);
  return Vec::of([=](std::size_t i) {
    return kept(dropout.seed, number + static_cast<std::uint32_t>(i * Reg::kWidth), dropout.threshold,
                scaled.r[i]);
  });
}

}  // namespace
}  // namespace kserve::training
