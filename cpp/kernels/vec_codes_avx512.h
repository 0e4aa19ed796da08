// Sums of products of int8 table numbers with the 16-bit codes of a hidden row, for the AVX-512 paths. All
// sums are modulo 2^32, hence the same in any order, on every path. Same member names in vec_codes_scalar.h
// and vec_codes_avx2.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {
namespace {

// totals[i] = sum of the lanes of x[i], i in 0 ... 3.
inline void four_lane_totals(const __m512i* x, std::int32_t* totals) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
  const __m512i quarters = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i two =
      _mm256_add_epi32(_mm512_castsi512_si256(quarters), _mm512_extracti64x4_epi64(quarters, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(totals),
                   _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
}

#if defined(__AVX512VNNI__)

// vpdpbusd multiplies unsigned by signed bytes and adds four products to a lane of 32 bits without
// saturation. The unsigned ones are the low and the high bytes of code + 32768, so 32768 * (sum of the table
// row) is too much: the caller takes it off.
struct CodeSum {
  static constexpr std::size_t kBlock = 64;         // numbers in a step
  static constexpr std::size_t kRows = 2;           // hidden rows taken together
  static constexpr bool kOffset = true;             // whether the codes are taken 32768 too large
  static constexpr std::int16_t kPadding = -32768;  // the code that adds nothing

  struct Numbers {
    __m512i v;
    static Numbers load(const std::int8_t* p) { return {_mm512_loadu_si512(p)}; }
    static Numbers load_first(const std::int8_t* p, std::size_t n) {
      return {_mm512_maskz_loadu_epi8((std::uint64_t{1} << n) - 1, p)};
    }
  };
  struct Codes {
    __m512i low, high;
    static Codes load(const std::int16_t* p) { return {_mm512_loadu_si512(p), _mm512_loadu_si512(p + 32)}; }
  };

  __m512i low, high;

  static CodeSum zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  void add(Numbers numbers, Codes codes) {
    low = _mm512_dpbusd_epi32(low, codes.low, numbers.v);
    high = _mm512_dpbusd_epi32(high, codes.high, numbers.v);
  }

  // Brings codes (padded) into the order that Codes::load reads, 64 low bytes before their 64 high bytes; in
  // place.
  static void arrange(std::int16_t* codes, std::size_t padded) {
    const __m512i sign = _mm512_set1_epi16(kPadding);
    for (std::int16_t* p = codes; p < codes + padded; p += kBlock) {
      const __m512i a = _mm512_xor_si512(_mm512_loadu_si512(p), sign);
      const __m512i b = _mm512_xor_si512(_mm512_loadu_si512(p + 32), sign);
      _mm512_storeu_si512(p, packed(a, b));
      _mm512_storeu_si512(p + 32, packed(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8)));
    }
  }

  // totals[i] = the whole of sums[i], i in 0 ... 3.
  static void four_totals(const CodeSum* sums, std::int32_t* totals) {
    __m512i whole[4];
    for (std::size_t i = 0; i < 4; ++i) {
      whole[i] = _mm512_add_epi32(_mm512_slli_epi32(sums[i].high, 8), sums[i].low);
    }
    four_lane_totals(whole, totals);
  }

 private:
  static __m512i packed(__m512i a, __m512i b) {
    const __m512i low = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(a));
    return _mm512_inserti64x4(low, _mm512_cvtepi16_epi8(b), 1);
  }
};

#else

// Without VNNI the numbers are widened to 16 bits and multiplied in pairs (vpmaddwd), which cannot saturate:
// 2 * 128 * 32767 is far below 2^31. (vpmaddubsw could: 2 * 255 * 127 does not fit 16 bits.)
struct CodeSum {
  static constexpr std::size_t kBlock = 32;    // numbers in a step
  static constexpr std::size_t kRows = 4;      // hidden rows taken together
  static constexpr bool kOffset = false;       // whether the codes are taken 32768 too large
  static constexpr std::int16_t kPadding = 0;  // the code that adds nothing

  struct Numbers {
    __m512i v;
    static Numbers load(const std::int8_t* p) {
      return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    }
    static Numbers load_first(const std::int8_t* p, std::size_t n) {
      return {_mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8((std::uint32_t{1} << n) - 1, p))};
    }
  };
  struct Codes {
    __m512i v;
    static Codes load(const std::int16_t* p) { return {_mm512_loadu_si512(p)}; }
  };

  __m512i v;

  static CodeSum zero() { return {_mm512_setzero_si512()}; }
  void add(Numbers numbers, Codes codes) { v = _mm512_add_epi32(v, _mm512_madd_epi16(numbers.v, codes.v)); }

  // Brings codes (padded) into the order that Codes::load reads; in place.
  static void arrange(std::int16_t* /*codes*/, std::size_t /*padded*/) {}

  // totals[i] = the whole of sums[i], i in 0 ... 3.
  static void four_totals(const CodeSum* sums, std::int32_t* totals) {
    const __m512i whole[4] = {sums[0].v, sums[1].v, sums[2].v, sums[3].v};
    four_lane_totals(whole, totals);
  }
};

#endif

}  // namespace
}  // namespace kserve::kernels
