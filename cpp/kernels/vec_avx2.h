// The physical register of the AVX2 path (with FMA and F16C): a ymm, two of which hold a logical vector.
// Same member names in vec_scalar.h and vec_avx512.h; what they build on is in lanes-inl.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kserve::kernels {
namespace {

struct Reg {
  static constexpr std::size_t kWidth = 8;
  static constexpr std::size_t kCount = 16;  // registers of this kind in the processor
  __m256 v;

  static Reg broadcast(float x) { return {_mm256_set1_ps(x)}; }
  static Reg load(const float* p) { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }

  // The first `n` lanes (n < kWidth); the others are zero, or left as they are in memory.
  static Reg load_first(const float* p, std::size_t n) { return {_mm256_maskload_ps(p, mask(n))}; }
  void store_first(float* p, std::size_t n) const { _mm256_maskstore_ps(p, mask(n), v); }
  Reg first_or(std::size_t n, Reg rest) const {
    return {_mm256_blendv_ps(rest.v, v, _mm256_castsi256_ps(mask(n)))};
  }

  static Reg load_half(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  void store_half(std::uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static Reg load_low_halves(const std::uint32_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(load_bits(p), 16))};
  }
  static Reg load_words(const std::uint32_t* p) { return {_mm256_castsi256_ps(load_bits(p))}; }
  static Reg load_int8(const std::int8_t* p) {
    return from_int8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg load_int8_first(const std::int8_t* p, std::size_t n) {
    std::int8_t bytes[kWidth] = {};
    std::memcpy(bytes, p, n);
    return load_int8(bytes);
  }

  static Reg from_ints(const std::int32_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }

  friend Reg operator+(Reg a, Reg b) { return {_mm256_add_ps(a.v, b.v)}; }
  friend Reg operator-(Reg a, Reg b) { return {_mm256_sub_ps(a.v, b.v)}; }
  friend Reg operator*(Reg a, Reg b) { return {_mm256_mul_ps(a.v, b.v)}; }
  friend Reg operator/(Reg a, Reg b) { return {_mm256_div_ps(a.v, b.v)}; }
  static Reg fma(Reg a, Reg b, Reg c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

  // a > b ? a : b, hence b where either is NaN; min likewise.
  static Reg max(Reg a, Reg b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Reg min(Reg a, Reg b) { return {_mm256_min_ps(a.v, b.v)}; }

  // Bit l: whether a > b in lane l; never where either is NaN.
  static std::uint32_t above(Reg a, Reg b) {
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)));
  }

  // 0 where x < limit, else value.
  static Reg zero_below(Reg x, float limit, Reg value) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.v, _mm256_set1_ps(limit), _CMP_NLT_UQ), value.v)};
  }
  // p * 2^n, n in the low bits of `rounded` (a number to which 1.5 * 2^23 was added); p is about 1.
  static Reg scaled_by(Reg p, Reg rounded) {
    return {_mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p.v), _mm256_slli_epi32(_mm256_castps_si256(rounded.v), 23)))};
  }
  // 2 to the power of integral lanes in -126 ... 127.
  static Reg power_of_two(Reg x) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(x.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(biased, 23))};
  }

  // Lane l holds lane l ^ kStride.
  template <std::size_t kStride>
  static Reg exchanged(Reg x) {
    if constexpr (kStride == 4) return {_mm256_permute2f128_ps(x.v, x.v, 0x01)};
    return {_mm256_permute_ps(x.v, kStride == 2 ? 0x4E : 0xB1)};
  }

  // Folds: lane l with lane l + kWidth / 2, and so on down to one.
  float sum() const {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  float largest() const {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  // totals[i] = x[i].sum() by the same additions, four at once.
  static void four_sums(const Reg* x, float* totals) {
    const __m256 e[4] = {x[0].v, x[1].v, x[2].v, x[3].v};
    const __m256 ac =
        _mm256_add_ps(_mm256_permute2f128_ps(e[0], e[2], 0x20), _mm256_permute2f128_ps(e[0], e[2], 0x31));
    const __m256 bd =
        _mm256_add_ps(_mm256_permute2f128_ps(e[1], e[3], 0x20), _mm256_permute2f128_ps(e[1], e[3], 0x31));
    const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xEE));
    const __m256 one = _mm256_add_ps(two, _mm256_movehdup_ps(two));
    _mm_storeu_ps(totals, _mm_shuffle_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1), 0x88));
  }
  // totals[i] = sum of the lanes of x[i], i in 0 ... count - 1.
  static void lane_sums(const Reg* x, std::size_t count, float* totals) {
    for (std::size_t i = 0; i < count; ++i) totals[i] = x[i].sum();
  }
  // Lane j of register i goes to lane i of register j.
  static void transpose(Reg (&x)[kWidth]) {
    __m256 t[8];
    for (std::size_t g = 0; g < 8; g += 4) {
      const __m256 ab0 = _mm256_unpacklo_ps(x[g].v, x[g + 1].v), ab2 = _mm256_unpackhi_ps(x[g].v, x[g + 1].v);
      const __m256 cd0 = _mm256_unpacklo_ps(x[g + 2].v, x[g + 3].v);
      const __m256 cd2 = _mm256_unpackhi_ps(x[g + 2].v, x[g + 3].v);
      t[g] = _mm256_shuffle_ps(ab0, cd0, 0x44);
      t[g + 1] = _mm256_shuffle_ps(ab0, cd0, 0xEE);
      t[g + 2] = _mm256_shuffle_ps(ab2, cd2, 0x44);
      t[g + 3] = _mm256_shuffle_ps(ab2, cd2, 0xEE);
    }
    for (std::size_t c = 0; c < 4; ++c) {
      x[c].v = _mm256_permute2f128_ps(t[c], t[4 + c], 0x20);
      x[4 + c].v = _mm256_permute2f128_ps(t[c], t[4 + c], 0x31);
    }
  }

 private:
  static __m256i load_bits(const std::uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static __m256i mask(std::size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }
  static Reg from_int8(__m128i bytes) { return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))}; }
};

// Eight sums of products of four bytes, in 32 bits; kShift as in vec_avx512.h.
struct Dot {
  static constexpr std::size_t kWidth = 8;
  static constexpr int kShift = 0;
  __m256i v;

  static Dot fill(int byte) { return {_mm256_set1_epi8(static_cast<char>(byte))}; }
  static Dot load(const std::int8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Dot broadcast(const std::int8_t* four_bytes) {
    int bits;
    std::memcpy(&bits, four_bytes, sizeof bits);
    return {_mm256_set1_epi32(bits)};
  }
  // |w| times x with the sign of w: 2 * 128 * 127 fits 16 bits, so nothing saturates.
  static Dot add(Dot sum, Dot x, Dot w) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w.v), _mm256_sign_epi8(x.v, w.v));
    return {_mm256_add_epi32(sum.v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
  }
  static Dot load_sums(const std::int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  void store(std::int32_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};

}  // namespace
}  // namespace kserve::kernels
