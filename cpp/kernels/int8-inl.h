// The embedding table, int8 with a scale per row: looked up (embed) and multiplied with (project).
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

void embed(const std::int8_t* table_row, std::size_t n, float scale, const float* position, float* y) {
  const Vec factor = Vec::broadcast(scale);
  for_each_vector(
      n,
      [=](std::size_t i) {
        Vec::fma(Vec::load_int8(table_row + i), factor, Vec::load(position + i)).store(y + i);
      },
      [=](std::size_t i, std::size_t lanes) {
        const Vec row = Vec::load_int8_first(table_row + i, lanes);
        Vec::fma(row, factor, Vec::load_first(position + i, lanes)).store_first(y + i, lanes);
      });
}

// Table rows and rows of h taken together: as many sums as the registers hold.
constexpr std::size_t kProjectWords = Vec::kRegs == 1 ? 4 : Vec::kRegs == 2 ? 2 : 1;
constexpr std::size_t kProjectRows = Vec::kRegs == 1 ? 4 : Vec::kRegs == 2 ? 2 : 1;
constexpr std::size_t kProjectWordsAlone = Vec::kRegs <= 2 ? 4 : 1;

struct ProjectCall {
  const std::int8_t* table;  // (vocab, n)
  const float* scale;        // (vocab)
  std::size_t n;
  const float* h;  // (rows, n)
  std::size_t h_stride;
  float* logits;  // (rows, vocab)
  std::size_t logits_stride;
};

// logits = sums * scale for one tile; sums (kRows, kWords).
template <std::size_t kWords, std::size_t kRows>
KSERVE_INLINE void write_logits(const ProjectCall& call, std::size_t word, std::size_t row, const Vec* sum) {
  float totals[kRows * kWords];
  if constexpr (kRows * kWords % 4 == 0) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kRows * kWords; i += 4) Vec::four_sums(sum + i, totals + i);
  } else {
    static_assert(kRows * kWords == 1);
    totals[0] = sum[0].sum();
  }
  for (std::size_t i = 0; i < kRows * kWords; ++i) {
    const std::size_t w = word + i % kWords;
    call.logits[(row + i / kWords) * call.logits_stride + w] = totals[i] * call.scale[w];
  }
}

// Table rows from `word` on times rows of h from `row` on.
template <std::size_t kWords, std::size_t kRows>
KSERVE_INLINE void project_tile(const ProjectCall& call, std::size_t word, std::size_t row) {
  const std::int8_t* table = call.table + word * call.n;
  const float* h = call.h + row * call.h_stride;
  Vec sum[kRows * kWords];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kRows * kWords; ++i) sum[i] = Vec::zero();
  const auto add = [&](auto load_table, auto load_h) {
    Vec x[kRows];
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) x[r] = load_h(h + r * call.h_stride);
    KSERVE_UNROLL
    for (std::size_t w = 0; w < kWords; ++w) {
      const Vec numbers = load_table(table + w * call.n);
      KSERVE_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        sum[r * kWords + w] = Vec::fma(numbers, x[r], sum[r * kWords + w]);
      }
    }
  };
  for_each_vector(
      call.n,
      [&](std::size_t i) {
        add([=](const std::int8_t* p) { return Vec::load_int8(p + i); },
            [=](const float* p) { return Vec::load(p + i); });
      },
      [&](std::size_t i, std::size_t lanes) {
        add([=](const std::int8_t* p) { return Vec::load_int8_first(p + i, lanes); },
            [=](const float* p) { return Vec::load_first(p + i, lanes); });
      });
  write_logits<kWords, kRows>(call, word, row, sum);
}

void project(const std::int8_t* table, const float* scale, std::size_t vocab, std::size_t n, const float* h,
             std::size_t h_stride, std::size_t rows, float* logits, std::size_t logits_stride) {
  const ProjectCall call{table, scale, n, h, h_stride, logits, logits_stride};
  const std::size_t row_tiles = rows / kProjectRows * kProjectRows;
  const std::size_t word_tiles = vocab / kProjectWordsAlone * kProjectWordsAlone;
  for (std::size_t word = 0; word < word_tiles; word += kProjectWordsAlone) {
    for (std::size_t row = 0; row < row_tiles; row += kProjectRows) {
      for (std::size_t w = word; w < word + kProjectWordsAlone; w += kProjectWords) {
        project_tile<kProjectWords, kProjectRows>(call, w, row);
      }
    }
    for (std::size_t row = row_tiles; row < rows; ++row) project_tile<kProjectWordsAlone, 1>(call, word, row);
  }
  for (std::size_t word = word_tiles; word < vocab; ++word) {
    for (std::size_t row = 0; row < rows; ++row) project_tile<1, 1>(call, word, row);
  }
}

}  // namespace
}  // namespace kserve::kernels
