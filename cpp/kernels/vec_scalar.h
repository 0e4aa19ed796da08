// The physical register of the plain path: one float, sixteen of which stand for a logical vector. Any
// processor. There is no fused multiply-add here: a * b is rounded before c is added. Same member names in
// vec_avx2.h and vec_avx512.h; what they build on is in lanes-inl.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#define KSERVE_ROLLED

namespace kserve::kernels {
namespace {

struct Reg {
  static constexpr std::size_t kWidth = 1;
  static constexpr std::size_t kCount = 16;  // registers of this kind in the processor
  float v;

  static Reg broadcast(float x) { return {x}; }
  static Reg load(const float* p) { return {*p}; }
  void store(float* p) const { *p = v; }

  // The first `n` lanes (n < kWidth, so none here).
  static Reg load_first(const float* /*p*/, std::size_t /*n*/) { return {0.0F}; }
  void store_first(float* /*p*/, std::size_t /*n*/) const {}
  Reg first_or(std::size_t /*n*/, Reg rest) const { return rest; }

  // IEEE half to float, by integers: exponent and mantissa move by 13 bits, the bias grows by 112. Scaling by
  // 2^112 does that and turns half's subnormals into normal floats; infinity and NaN need their exponent
  // filled.
  static Reg load_half(const std::uint16_t* p) {
    const std::uint32_t magnitude = static_cast<std::uint32_t>(*p & 0x7FFFU) << 13;
    const std::uint32_t sign = static_cast<std::uint32_t>(*p & 0x8000U) << 16;
    std::uint32_t bits = to_bits(from_bits(magnitude) * 0x1p112F);
    if (magnitude >= 0x0F800000U) bits = magnitude | 0x7F800000U;
    return {from_bits(bits | sign)};
  }
  // Float to IEEE half, to the nearest, ties to even. Adding 2^e, e so large that the half's last bit becomes
  // the sum's last bit, rounds as the half would; what is below half's normal numbers shares one e.
  void store_half(std::uint16_t* p) const {
    const std::uint32_t bits = to_bits(v), magnitude = bits & 0x7FFFFFFFU;
    const std::uint32_t sign = bits >> 16 & 0x8000U;
    std::uint32_t half = 0;
    if (magnitude > 0x7F800000U) {
      half = 0x7E00U;  // not a number
    } else if (magnitude >= 0x477FF000U) {
      half = 0x7C00U;  // rounds to infinity
    } else if (magnitude < 0x38800000U) {
      half = to_bits(from_bits(magnitude) + 0.5F) - to_bits(0.5F);  // subnormal: steps of 2^-24
    } else {
      half = (magnitude - 0x38000000U + 0xFFFU + (magnitude >> 13 & 1U)) >> 13;
    }
    *p = static_cast<std::uint16_t>(sign | half);
  }
  static Reg load_low_halves(const std::uint32_t* p) { return {from_bits(*p << 16)}; }
  static Reg load_words(const std::uint32_t* p) { return {from_bits(*p)}; }
  static Reg load_int8(const std::int8_t* p) { return {static_cast<float>(*p)}; }
  static Reg load_int8_first(const std::int8_t* /*p*/, std::size_t /*n*/) { return {0.0F}; }

  static Reg from_ints(const std::int32_t* p) { return {static_cast<float>(*p)}; }

  friend Reg operator+(Reg a, Reg b) { return {a.v + b.v}; }
  friend Reg operator-(Reg a, Reg b) { return {a.v - b.v}; }
  friend Reg operator*(Reg a, Reg b) { return {a.v * b.v}; }
  friend Reg operator/(Reg a, Reg b) { return {a.v / b.v}; }
  static Reg fma(Reg a, Reg b, Reg c) { return {a.v * b.v + c.v}; }

  // a > b ? a : b, hence b where either is NaN; min likewise.
  static Reg max(Reg a, Reg b) { return a.v > b.v ? a : b; }
  static Reg min(Reg a, Reg b) { return a.v < b.v ? a : b; }

  // Bit l: whether a > b in lane l; never where either is NaN.
  static std::uint32_t above(Reg a, Reg b) { return a.v > b.v ? 1 : 0; }

  // 0 where x < limit, else value.
  static Reg zero_below(Reg x, float limit, Reg value) { return x.v < limit ? Reg{0.0F} : value; }
  // p * 2^n, n in the low bits of `rounded` (a number to which 1.5 * 2^23 was added); p is about 1.
  static Reg scaled_by(Reg p, Reg rounded) { return {from_bits(to_bits(p.v) + (to_bits(rounded.v) << 23))}; }
  // 2 to the power of an integral number in -126 ... 127.
  static Reg power_of_two(Reg x) {
    return {from_bits(static_cast<std::uint32_t>(static_cast<std::int32_t>(x.v) + 127) << 23)};
  }

  // Within one lane there is nothing to exchange.
  template <std::size_t kStride>
  static Reg exchanged(Reg x) {
    return x;
  }

  float sum() const { return v; }
  float largest() const { return v; }

  // totals[i] = x[i].sum() by the same additions, four at once.
  static void four_sums(const Reg* x, float* totals) {
    for (std::size_t i = 0; i < 4; ++i) totals[i] = x[i].v;
  }
  // totals[i] = sum of the lanes of x[i], i in 0 ... count - 1.
  static void lane_sums(const Reg* x, std::size_t count, float* totals) {
    for (std::size_t i = 0; i < count; ++i) totals[i] = x[i].v;
  }
  // Lane j of register i goes to lane i of register j.
  static void transpose(Reg (& /*x*/)[kWidth]) {}

 private:
  static float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  }
  static std::uint32_t to_bits(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
  }
};

// One sum of products of four bytes; kShift as in vec_avx512.h.
struct Dot {
  static constexpr std::size_t kWidth = 1;
  static constexpr int kShift = 0;
  std::uint32_t v;  // four bytes, or the sum in two's complement

  static Dot fill(int byte) { return {static_cast<std::uint8_t>(byte) * 0x01010101U}; }
  static Dot load(const std::int8_t* p) {
    std::uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return {bits};
  }
  static Dot broadcast(const std::int8_t* four_bytes) { return load(four_bytes); }
  static Dot add(Dot sum, Dot x, Dot w) {
    std::int32_t total = static_cast<std::int32_t>(sum.v);
    for (unsigned shift = 0; shift < 32; shift += 8) total += byte(x, shift) * byte(w, shift);
    return {static_cast<std::uint32_t>(total)};
  }
  static Dot load_sums(const std::int32_t* p) { return {static_cast<std::uint32_t>(*p)}; }
  void store(std::int32_t* p) const { *p = static_cast<std::int32_t>(v); }

 private:
  static int byte(Dot bytes, unsigned shift) { return static_cast<std::int8_t>(bytes.v >> shift); }
};

}  // namespace
}  // namespace kserve::kernels
