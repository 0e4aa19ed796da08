// The physical register of the AVX-512 path (F, BW, DQ, VL): one zmm holds all 16 lanes of a logical vector.
// Same member names in vec_scalar.h and vec_avx2.h; what they build on is in lanes-inl.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {
namespace {

struct Reg {
  static constexpr std::size_t kWidth = 16;
  static constexpr std::size_t kCount = 32;  // registers of this kind in the processor
  __m512 v;

  static Reg broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static Reg load(const float* p) { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }

  // The first `n` lanes (n < kWidth); the others are zero, or left as they are in memory.
  static Reg load_first(const float* p, std::size_t n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
  void store_first(float* p, std::size_t n) const { _mm512_mask_storeu_ps(p, mask(n), v); }
  Reg first_or(std::size_t n, Reg rest) const { return {_mm512_mask_mov_ps(rest.v, mask(n), v)}; }

  static Reg load_half(const std::uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  void store_half(std::uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static Reg load_low_halves(const std::uint32_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
  }
  static Reg load_words(const std::uint32_t* p) { return {_mm512_castsi512_ps(_mm512_loadu_si512(p))}; }
  static Reg load_int8(const std::int8_t* p) {
    return from_int8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg load_int8_first(const std::int8_t* p, std::size_t n) {
    return from_int8(_mm_maskz_loadu_epi8(mask(n), p));
  }

  static Reg from_ints(const std::int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }

  friend Reg operator+(Reg a, Reg b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Reg operator-(Reg a, Reg b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Reg operator*(Reg a, Reg b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Reg operator/(Reg a, Reg b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Reg fma(Reg a, Reg b, Reg c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

  // a > b ? a : b, hence b where either is NaN; min likewise.
  static Reg max(Reg a, Reg b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Reg min(Reg a, Reg b) { return {_mm512_min_ps(a.v, b.v)}; }

  // Bit l: whether a > b in lane l; never where either is NaN.
  static std::uint32_t above(Reg a, Reg b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }

  // 0 where x < limit, else value.
  static Reg zero_below(Reg x, float limit, Reg value) {
    return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, _mm512_set1_ps(limit), _CMP_NLT_UQ), value.v)};
  }
  // p * 2^n, n in the low bits of `rounded` (a number to which 1.5 * 2^23 was added); p is about 1.
  static Reg scaled_by(Reg p, Reg rounded) {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(rounded.v), 23)))};
  }
  // 2 to the power of integral lanes in -126 ... 127.
  static Reg power_of_two(Reg x) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(x.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
  }

  // Lane l holds lane l ^ kStride.
  template <std::size_t kStride>
  static Reg exchanged(Reg x) {
    if constexpr (kStride == 8) return {_mm512_shuffle_f32x4(x.v, x.v, 0x4E)};
    if constexpr (kStride == 4) return {_mm512_shuffle_f32x4(x.v, x.v, 0xB1)};
    return {_mm512_permute_ps(x.v, kStride == 2 ? 0x4E : 0xB1)};
  }

  // Folds: lane l with lane l + kWidth / 2, and so on down to one.
  float sum() const {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  float largest() const {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }

  // totals[i] = x[i].sum() by the same additions, four at once.
  static void four_sums(const Reg* x, float* totals) {
    __m256 e[4];
    for (std::size_t i = 0; i < 4; ++i) {
      e[i] = _mm256_add_ps(_mm512_castps512_ps256(x[i].v), _mm512_extractf32x8_ps(x[i].v, 1));
    }
    const __m256 ac =
        _mm256_add_ps(_mm256_permute2f128_ps(e[0], e[2], 0x20), _mm256_permute2f128_ps(e[0], e[2], 0x31));
    const __m256 bd =
        _mm256_add_ps(_mm256_permute2f128_ps(e[1], e[3], 0x20), _mm256_permute2f128_ps(e[1], e[3], 0x31));
    const __m256 two = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xEE));
    const __m256 one = _mm256_add_ps(two, _mm256_movehdup_ps(two));
    _mm_storeu_ps(totals, _mm_shuffle_ps(_mm256_castps256_ps128(one), _mm256_extractf128_ps(one, 1), 0x88));
  }
  // totals[i] = sum of the lanes of x[i], i in 0 ... count - 1; count 4 or 16.
  static void lane_sums(const Reg* x, std::size_t count, float* totals) {
    if (count != kWidth) {
      for (std::size_t i = 0; i < count; ++i) totals[i] = x[i].sum();
      return;
    }
    __m512 four[4];  // four[g]: in each quarter, the quarter's sums of x[4g] ... x[4g + 3]
    for (std::size_t g = 0; g < 4; ++g) {
      const __m512 ab = interleaved_sum(x[4 * g].v, x[4 * g + 1].v);
      const __m512 cd = interleaved_sum(x[4 * g + 2].v, x[4 * g + 3].v);
      four[g] = _mm512_add_ps(unpack_low(ab, cd), unpack_high(ab, cd));
    }
    const __m512 low = quarter_sum(four[0], four[1]), high = quarter_sum(four[2], four[3]);
    _mm512_storeu_ps(totals, quarter_sum(low, high));
  }
  // Lane j of register i goes to lane i of register j.
  static void transpose(Reg (&x)[kWidth]) {
    __m512 t[16];
    for (std::size_t g = 0; g < 16; g += 4) {
      const __m512 ab0 = _mm512_unpacklo_ps(x[g].v, x[g + 1].v), ab2 = _mm512_unpackhi_ps(x[g].v, x[g + 1].v);
      const __m512 cd0 = _mm512_unpacklo_ps(x[g + 2].v, x[g + 3].v);
      const __m512 cd2 = _mm512_unpackhi_ps(x[g + 2].v, x[g + 3].v);
      t[g] = unpack_low(ab0, cd0);  // column 4q of rows g ... g + 3 in quarter q, then columns 4q + 1, ...
      t[g + 1] = unpack_high(ab0, cd0);
      t[g + 2] = unpack_low(ab2, cd2);
      t[g + 3] = unpack_high(ab2, cd2);
    }
    for (std::size_t c = 0; c < 4; ++c) {
      const __m512 even0 = _mm512_shuffle_f32x4(t[c], t[4 + c], 0x88);
      const __m512 odd0 = _mm512_shuffle_f32x4(t[c], t[4 + c], 0xDD);
      const __m512 even1 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x88);
      const __m512 odd1 = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xDD);
      x[c].v = _mm512_shuffle_f32x4(even0, even1, 0x88);
      x[4 + c].v = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
      x[8 + c].v = _mm512_shuffle_f32x4(even0, even1, 0xDD);
      x[12 + c].v = _mm512_shuffle_f32x4(odd0, odd1, 0xDD);
    }
  }

 private:
  static __m512 unpack_low(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static __m512 unpack_high(__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  }
  static __m512 interleaved_sum(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  static __m512 quarter_sum(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  static __mmask16 mask(std::size_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
  static Reg from_int8(__m128i bytes) { return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))}; }
};

// Sixteen sums of products of four bytes, in 32 bits. With VNNI the multiplier is unsigned: it is stored with
// kShift added, and kShift times the weights must be taken off the sum.
struct Dot {
  static constexpr std::size_t kWidth = 16;
  __m512i v;

  static Dot fill(int byte) { return {_mm512_set1_epi8(static_cast<char>(byte))}; }
  static Dot load(const std::int8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Dot broadcast(const std::int8_t* four_bytes) {
    int bits;
    __builtin_memcpy(&bits, four_bytes, sizeof bits);
    return {_mm512_set1_epi32(bits)};
  }
#if defined(__AVX512VNNI__)
  static constexpr int kShift = 128;  // kCodeShift
  static Dot add(Dot sum, Dot x, Dot w) { return {_mm512_dpbusd_epi32(sum.v, x.v, w.v)}; }
#else
  static constexpr int kShift = 0;
  // |w| times x with the sign of w: 2 * 128 * 127 fits 16 bits, so nothing saturates.
  static Dot add(Dot sum, Dot x, Dot w) {
    const __m512i signed_x = _mm512_mask_sub_epi8(x.v, _mm512_movepi8_mask(w.v), _mm512_setzero_si512(), x.v);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w.v), signed_x);
    return {_mm512_add_epi32(sum.v, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
  }
#endif
  static Dot load_sums(const std::int32_t* p) { return {_mm512_loadu_si512(p)}; }
  void store(std::int32_t* p) const { _mm512_storeu_si512(p, v); }
};

}  // namespace
}  // namespace kserve::kernels
