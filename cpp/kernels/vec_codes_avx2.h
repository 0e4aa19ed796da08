// Sums of products of int8 table numbers with the 16-bit codes of a hidden row, for the AVX2 path: the
// numbers are widened to 16 bits and multiplied in pairs (vpmaddwd), which cannot saturate: 2 * 128 * 32767
// is far below 2^31. (vpmaddubsw could: 2 * 255 * 127 does not fit 16 bits.) Same member names in
// vec_codes_scalar.h and vec_codes_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kserve::kernels {
namespace {

struct CodeSum {
  static constexpr std::size_t kBlock = 16;    // numbers in a step
  static constexpr std::size_t kRows = 2;      // hidden rows taken together
  static constexpr bool kOffset = false;       // whether the codes are taken 32768 too large
  static constexpr std::int16_t kPadding = 0;  // the code that adds nothing

  struct Numbers {
    __m256i v;
    static Numbers load(const std::int8_t* p) {
      return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
    }
    static Numbers load_first(const std::int8_t* p, std::size_t n) {
      std::int8_t bytes[kBlock] = {};
      std::memcpy(bytes, p, n);
      return load(bytes);
    }
  };
  struct Codes {
    __m256i v;
    static Codes load(const std::int16_t* p) {
      return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
    }
  };

  __m256i v;

  static CodeSum zero() { return {_mm256_setzero_si256()}; }
  void add(Numbers numbers, Codes codes) { v = _mm256_add_epi32(v, _mm256_madd_epi16(numbers.v, codes.v)); }

  // Brings codes (padded) into the order that Codes::load reads; in place.
  static void arrange(std::int16_t* /*codes*/, std::size_t /*padded*/) {}

  // totals[i] = the whole of sums[i], i in 0 ... 3.
  static void four_totals(const CodeSum* sums, std::int32_t* totals) {
    const __m256i ab = _mm256_hadd_epi32(sums[0].v, sums[1].v), cd = _mm256_hadd_epi32(sums[2].v, sums[3].v);
    const __m256i halves = _mm256_hadd_epi32(ab, cd);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(totals),
                     _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
  }
};

}  // namespace
}  // namespace kserve::kernels
