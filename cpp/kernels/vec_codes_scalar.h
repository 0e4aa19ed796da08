// Sums of products of int8 table numbers with the 16-bit codes of a hidden row, for the plain path: one of
// each at a time. All sums are modulo 2^32, hence the same in any order, on every path. Same member names in
// vec_codes_avx2.h and vec_codes_avx512.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {
namespace {

struct CodeSum {
  static constexpr std::size_t kBlock = 1;     // numbers in a step
  static constexpr std::size_t kRows = 1;      // hidden rows taken together
  static constexpr bool kOffset = false;       // whether the codes are taken 32768 too large
  static constexpr std::int16_t kPadding = 0;  // the code that adds nothing

  struct Numbers {
    std::int32_t v;
    static Numbers load(const std::int8_t* p) { return {*p}; }
    static Numbers load_first(const std::int8_t* /*p*/, std::size_t /*n*/) { return {0}; }
  };
  struct Codes {
    std::int32_t v;
    static Codes load(const std::int16_t* p) { return {*p}; }
  };

  std::uint32_t v;

  static CodeSum zero() { return {0}; }
  void add(Numbers numbers, Codes codes) { v += static_cast<std::uint32_t>(numbers.v * codes.v); }

  // Brings codes (padded) into the order that Codes::load reads; in place.
  static void arrange(std::int16_t* /*codes*/, std::size_t /*padded*/) {}

  // totals[i] = the whole of sums[i], i in 0 ... 3.
  static void four_totals(const CodeSum* sums, std::int32_t* totals) {
    for (std::size_t i = 0; i < 4; ++i) totals[i] = static_cast<std::int32_t>(sums[i].v);
  }
};

}  // namespace
}  // namespace kserve::kernels
