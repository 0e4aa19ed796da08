// The logical vector of 16 lanes on which every kernel is written, made of the physical registers of the
// instruction set whose vec_*.h KSERVE_VEC names. A sum folds lane l with l + 8, then 4, 2, 1, however
// wide a register is.
#pragma once

#include KSERVE_VEC  // set by the isa_*.cpp that is being compiled

#include "kernels/table.h"

// Loops over registers must vanish, or the registers end up in memory. Where a vector is an array anyway,
// they would only become endless code.
#if defined(KSERVE_ROLLED)
#define KSERVE_UNROLL
#elif defined(__clang__)
#define KSERVE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define KSERVE_UNROLL _Pragma("GCC unroll 16")
#endif
#if defined(KSERVE_ROLLED)
#define KSERVE_INLINE inline
#else
#define KSERVE_INLINE __attribute__((always_inline)) inline
#endif

namespace kserve::kernels {
namespace {

struct Vec {
  static constexpr std::size_t kRegs = kLanes / Reg::kWidth;
  Reg r[kRegs];

  // Builds a vector register by register: part(i) gives register i.
  template <class Part>
  static KSERVE_INLINE Vec of(Part part) {
    Vec result;
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) result.r[i] = part(i);
    return result;
  }

  static KSERVE_INLINE Vec broadcast(float x) {
    return of([=](std::size_t) { return Reg::broadcast(x); });
  }
  static KSERVE_INLINE Vec zero() { return broadcast(0.0F); }
  static KSERVE_INLINE Vec load(const float* p) {
    return of([=](std::size_t i) { return Reg::load(p + i * Reg::kWidth); });
  }
  static KSERVE_INLINE Vec load_half(const std::uint16_t* p) {
    return of([=](std::size_t i) { return Reg::load_half(p + i * Reg::kWidth); });
  }
  // The lower 16 bits of words as the upper ones of floats; and words as floats.
  static KSERVE_INLINE Vec load_low_halves(const std::uint32_t* p) {
    return of([=](std::size_t i) { return Reg::load_low_halves(p + i * Reg::kWidth); });
  }
  static KSERVE_INLINE Vec load_words(const std::uint32_t* p) {
    return of([=](std::size_t i) { return Reg::load_words(p + i * Reg::kWidth); });
  }
  static KSERVE_INLINE Vec load_int8(const std::int8_t* p) {
    return of([=](std::size_t i) { return Reg::load_int8(p + i * Reg::kWidth); });
  }
  static KSERVE_INLINE Vec from_ints(const std::int32_t* p) {
    return of([=](std::size_t i) { return Reg::from_ints(p + i * Reg::kWidth); });
  }
  KSERVE_INLINE void store(float* p) const {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) r[i].store(p + i * Reg::kWidth);
  }

  // The first n lanes, n < 16; the others are zero (load), `rest` (first_or) or left as they are (store).
  static KSERVE_INLINE Vec load_first(const float* p, std::size_t n) {
    return of([=](std::size_t i) {
      if (n >= (i + 1) * Reg::kWidth) return Reg::load(p + i * Reg::kWidth);
      return n > i * Reg::kWidth ? Reg::load_first(p + i * Reg::kWidth, n - i * Reg::kWidth)
                                 : Reg::broadcast(0.0F);
    });
  }
  // The first n lanes, n <= 16; the others are `rest`'s.
  static KSERVE_INLINE Vec load_first_or(const float* p, std::size_t n, Vec rest) {
    return n == kLanes ? load(p) : load_first(p, n).first_or(n, rest);
  }
  static KSERVE_INLINE Vec load_int8_first(const std::int8_t* p, std::size_t n) {
    return of([=](std::size_t i) {
      if (n >= (i + 1) * Reg::kWidth) return Reg::load_int8(p + i * Reg::kWidth);
      return n > i * Reg::kWidth ? Reg::load_int8_first(p + i * Reg::kWidth, n - i * Reg::kWidth)
                                 : Reg::broadcast(0.0F);
    });
  }
  KSERVE_INLINE void store_first(float* p, std::size_t n) const {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) {
      if (n >= (i + 1) * Reg::kWidth) {
        r[i].store(p + i * Reg::kWidth);
      } else if (n > i * Reg::kWidth) {
        r[i].store_first(p + i * Reg::kWidth, n - i * Reg::kWidth);
      }
    }
  }
  static KSERVE_INLINE Vec load_half_first(const std::uint16_t* p, std::size_t n) {
    std::uint16_t numbers[kLanes] = {};
    for (std::size_t i = 0; i < n; ++i) numbers[i] = p[i];
    return load_half(numbers);
  }
  KSERVE_INLINE void store_half(std::uint16_t* p) const {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) r[i].store_half(p + i * Reg::kWidth);
  }
  KSERVE_INLINE void store_half_first(std::uint16_t* p, std::size_t n) const {
    std::uint16_t numbers[kLanes];
    store_half(numbers);
    for (std::size_t i = 0; i < n; ++i) p[i] = numbers[i];
  }
  KSERVE_INLINE Vec first_or(std::size_t n, Vec rest) const {
    return of([=](std::size_t i) {
      if (n >= (i + 1) * Reg::kWidth) return r[i];
      return n > i * Reg::kWidth ? r[i].first_or(n - i * Reg::kWidth, rest.r[i]) : rest.r[i];
    });
  }

  friend KSERVE_INLINE Vec operator+(Vec a, Vec b) {
    return of([=](std::size_t i) { return a.r[i] + b.r[i]; });
  }
  friend KSERVE_INLINE Vec operator-(Vec a, Vec b) {
    return of([=](std::size_t i) { return a.r[i] - b.r[i]; });
  }
  friend KSERVE_INLINE Vec operator*(Vec a, Vec b) {
    return of([=](std::size_t i) { return a.r[i] * b.r[i]; });
  }
  friend KSERVE_INLINE Vec operator/(Vec a, Vec b) {
    return of([=](std::size_t i) { return a.r[i] / b.r[i]; });
  }
  static KSERVE_INLINE Vec fma(Vec a, Vec b, Vec c) {
    return of([=](std::size_t i) { return Reg::fma(a.r[i], b.r[i], c.r[i]); });
  }
  static KSERVE_INLINE Vec max(Vec a, Vec b) {
    return of([=](std::size_t i) { return Reg::max(a.r[i], b.r[i]); });
  }
  static KSERVE_INLINE Vec min(Vec a, Vec b) {
    return of([=](std::size_t i) { return Reg::min(a.r[i], b.r[i]); });
  }
  static KSERVE_INLINE bool any_above(Vec a, Vec b) {
    bool any = false;
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) any |= Reg::above(a.r[i], b.r[i]) != 0;
    return any;
  }
  // Bit l: whether a > b in lane l.
  static KSERVE_INLINE std::uint32_t above(Vec a, Vec b) {
    std::uint32_t bits = 0;
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRegs; ++i) bits |= Reg::above(a.r[i], b.r[i]) << (i * Reg::kWidth);
    return bits;
  }
  static KSERVE_INLINE Vec zero_below(Vec x, float limit, Vec value) {
    return of([=](std::size_t i) { return Reg::zero_below(x.r[i], limit, value.r[i]); });
  }
  static KSERVE_INLINE Vec scaled_by(Vec p, Vec rounded) {
    return of([=](std::size_t i) { return Reg::scaled_by(p.r[i], rounded.r[i]); });
  }
  static KSERVE_INLINE Vec power_of_two(Vec x) {
    return of([=](std::size_t i) { return Reg::power_of_two(x.r[i]); });
  }

  // Lane l holds lane l ^ kStride; kStride 1, 2, 4 or 8.
  template <std::size_t kStride>
  static KSERVE_INLINE Vec exchanged(Vec x) {
    if constexpr (kStride >= Reg::kWidth) {
      return of([=](std::size_t i) { return x.r[i ^ (kStride / Reg::kWidth)]; });
    } else {
      return of([=](std::size_t i) { return Reg::exchanged<kStride>(x.r[i]); });
    }
  }

  KSERVE_INLINE Reg folded() const {
    Vec rest = *this;
    KSERVE_UNROLL
    for (std::size_t half = kRegs / 2; half > 0; half /= 2) {
      KSERVE_UNROLL
      for (std::size_t i = 0; i < half; ++i) rest.r[i] = rest.r[i] + rest.r[i + half];
    }
    return rest.r[0];
  }
  KSERVE_INLINE float sum() const { return folded().sum(); }
  // totals[i] = x[i].sum(), i in 0 ... 3, for less than four times the work.
  static KSERVE_INLINE void four_sums(const Vec* x, float* totals) {
    const Reg parts[4] = {x[0].folded(), x[1].folded(), x[2].folded(), x[3].folded()};
    Reg::four_sums(parts, totals);
  }
  KSERVE_INLINE float largest() const {
    Vec folded = *this;
    KSERVE_UNROLL
    for (std::size_t half = kRegs / 2; half > 0; half /= 2) {
      KSERVE_UNROLL
      for (std::size_t i = 0; i < half; ++i) folded.r[i] = Reg::max(folded.r[i], folded.r[i + half]);
    }
    return folded.r[0].largest();
  }
};

// Calls whole(i) for every full vector of 0 ... n - 1 (i the first lane), then tail(i, lanes) for what is
// left.
template <class Whole, class Tail>
KSERVE_INLINE void for_each_vector(std::size_t n, Whole whole, Tail tail) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) whole(i);
  if (i < n) tail(i, n - i);
}

}  // namespace
}  // namespace kserve::kernels
