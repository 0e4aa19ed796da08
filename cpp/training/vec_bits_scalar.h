// bfloat16 and counted random bits on the register of vec_scalar.h. Same names in vec_bits_avx2.h and
// vec_bits_avx512.h.
#pragma once

#include <cstring>

#include "kernels/lanes-inl.h"

namespace kserve::training {
namespace {

using kernels::Reg;

inline Reg load_bfloat(const std::uint16_t* p) {
  const std::uint32_t bits = static_cast<std::uint32_t>(*p) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return {x};
}

// To the nearest, ties to even; a NaN stays one.
inline void store_bfloat(Reg x, std::uint16_t* p) {
  std::uint32_t bits;
  std::memcpy(&bits, &x.v, sizeof bits);
  bits = x.v == x.v ? bits + 0x7FFFU + (bits >> 16 & 1U) : 0x7FC00000U;
  *p = static_cast<std::uint16_t>(bits >> 16);
}

// Of a number that a bfloat16 holds exactly.
inline void store_exact_bfloat(Reg x, std::uint16_t* p) {
  std::uint32_t bits;
  std::memcpy(&bits, &x.v, sizeof bits);
  *p = static_cast<std::uint16_t>(bits >> 16);
}

// x where mix(seed, first) >= threshold, else zero.
inline Reg kept(std::uint32_t seed, std::uint32_t first, std::uint32_t threshold, Reg x) {
  std::uint32_t h = (first * kMixA) ^ seed;
  h = (h ^ h >> 16) * kMixB;
  h = (h ^ h >> 13) * kMixC;
  h ^= h >> 16;
  return h >= threshold ? x : Reg{0.0F};
}

}  // namespace
}  // namespace kserve::training
