// bfloat16 and counted random bits on the register of vec_avx512.h. Same names in vec_bits_scalar.h and
// vec_bits_avx2.h.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::training {
namespace {

using kernels::Reg;

inline Reg load_bfloat(const std::uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}

// To the nearest, ties to even; a NaN stays one.
inline void store_bfloat(Reg x, std::uint16_t* p) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7FC00000));
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), high);
}

// Of a number that a bfloat16 holds exactly.
inline void store_exact_bfloat(Reg x, std::uint16_t* p) {
  const __m256i high = _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(x.v), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), high);
}

// x in the lanes l where mix(seed, first + l) >= threshold, zero in the others.
inline Reg kept(std::uint32_t seed, std::uint32_t first, std::uint32_t threshold, Reg x) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  __m512i h = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lane);
  h = _mm512_mullo_epi32(h, _mm512_set1_epi32(static_cast<int>(kMixA)));
  h = _mm512_xor_si512(h, _mm512_set1_epi32(static_cast<int>(seed)));
  h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 16)),
                         _mm512_set1_epi32(static_cast<int>(kMixB)));
  h = _mm512_mullo_epi32(_mm512_xor_si512(h, _mm512_srli_epi32(h, 13)),
                         _mm512_set1_epi32(static_cast<int>(kMixC)));
  h = _mm512_xor_si512(h, _mm512_srli_epi32(h, 16));
  const __m512i limit = _mm512_set1_epi32(static_cast<int>(threshold));
  return {_mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(h, limit), x.v)};
}

}  // namespace
}  // namespace kserve::training
