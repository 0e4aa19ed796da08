// bfloat16 and counted random bits on the register of vec_avx2.h. Same names in vec_bits_scalar.h and
// vec_bits_avx512.h.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::training {
namespace {

using kernels::Reg;

inline Reg load_bfloat(const std::uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}

// To the nearest, ties to even; a NaN stays one.
inline void store_bfloat(Reg x, std::uint16_t* p) {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x.v, x.v, _CMP_UNORD_Q));
  const __m256i rounded = _mm256_blendv_epi8(near, _mm256_set1_epi32(0x7FC00000), nan);
  const __m256i high = _mm256_srli_epi32(rounded, 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}

// Of a number that a bfloat16 holds exactly.
inline void store_exact_bfloat(Reg x, std::uint16_t* p) {
  const __m256i high = _mm256_srli_epi32(_mm256_castps_si256(x.v), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}

// x in the lanes l where mix(seed, first + l) >= threshold, zero in the others.
inline Reg kept(std::uint32_t seed, std::uint32_t first, std::uint32_t threshold, Reg x) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i h = _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), lane);
  h = _mm256_mullo_epi32(h, _mm256_set1_epi32(static_cast<int>(kMixA)));
  h = _mm256_xor_si256(h, _mm256_set1_epi32(static_cast<int>(seed)));
  h = _mm256_mullo_epi32(_mm256_xor_si256(h, _mm256_srli_epi32(h, 16)),
                         _mm256_set1_epi32(static_cast<int>(kMixB)));
  h = _mm256_mullo_epi32(_mm256_xor_si256(h, _mm256_srli_epi32(h, 13)),
                         _mm256_set1_epi32(static_cast<int>(kMixC)));
  h = _mm256_xor_si256(h, _mm256_srli_epi32(h, 16));
  // There is no unsigned comparison: the larger of both is h where h >= threshold.
  const __m256i limit = _mm256_set1_epi32(static_cast<int>(threshold));
  const __m256i keep = _mm256_cmpeq_epi32(_mm256_max_epu32(h, limit), h);
  return {_mm256_and_ps(_mm256_castsi256_ps(keep), x.v)};
}

}  // namespace
}  // namespace kserve::training
