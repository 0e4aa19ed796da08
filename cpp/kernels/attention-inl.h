// Attention of one query row over cached keys and values, head by head.
#pragma once

#include "kernels/dynconv-inl.h"
#include "kernels/softmax-inl.h"

namespace kserve::kernels {
namespace {

// The cached rows of one head, `length` of them `stride` floats apart.
struct HeadRows {
  const std::uint16_t* rows;
  std::size_t stride, length;
};

// dots[k] = query (n) times row first + k, k in 0 ... kCount - 1.
template <std::size_t kCount>
KSERVE_INLINE void dot_rows(const HeadRows& keys, std::size_t first, const float* query, std::size_t n,
                            float* dots) {
  const std::uint16_t* const rows = keys.rows + first * keys.stride;
  Vec sum[kCount];
  KSERVE_UNROLL
  for (std::size_t k = 0; k < kCount; ++k) sum[k] = Vec::zero();
  for_each_vector(
      n,
      [&](std::size_t i) {
        const Vec q = Vec::load(query + i);
        KSERVE_UNROLL
        for (std::size_t k = 0; k < kCount; ++k)
          sum[k] = Vec::fma(q, Vec::load_half(rows + k * keys.stride + i), sum[k]);
      },
      [&](std::size_t i, std::size_t lanes) {
        const Vec q = Vec::load_first(query + i, lanes);
        KSERVE_UNROLL
        for (std::size_t k = 0; k < kCount; ++k) {
          sum[k] = Vec::fma(q, Vec::load_half_first(rows + k * keys.stride + i, lanes), sum[k]);
        }
      });
  if constexpr (kCount == 4) {
    Vec::four_sums(sum, dots);
  } else {
    static_assert(kCount == 1);
    dots[0] = sum[0].sum();
  }
}

// scores (length) = scale * keys times query (head_dim).
void score_rows(const HeadRows& keys, const float* query, std::size_t head_dim, float scale, float* scores) {
  std::size_t t = 0;
  for (; t + 4 <= keys.length; t += 4) dot_rows<4>(keys, t, query, head_dim, scores + t);
  for (; t < keys.length; ++t) dot_rows<1>(keys, t, query, head_dim, scores + t);
  for (std::size_t i = 0; i < keys.length; ++i) scores[i] *= scale;
}

// Vectors of channels taken together when rows are mixed: each is one long chain of additions, several hide
// its latency.
constexpr std::size_t kMixVectors = Vec::kRegs <= 2 ? 4 : 1;

// y (16 * kCount) = the rows from channel `first` on, weighted by `shares` and added in their order.
template <std::size_t kCount>
KSERVE_INLINE void mix_channels(const HeadRows& values, const float* shares, std::size_t first, float* y) {
  Vec sum[kCount];
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kCount; ++v) sum[v] = Vec::zero();
  for (std::size_t t = 0; t < values.length; ++t) {
    const Vec share = Vec::broadcast(shares[t]);
    const std::uint16_t* const row = values.rows + t * values.stride + first;
    KSERVE_UNROLL
    for (std::size_t v = 0; v < kCount; ++v)
      sum[v] = Vec::fma(share, Vec::load_half(row + v * kLanes), sum[v]);
  }
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kCount; ++v) sum[v].store(y + first + v * kLanes);
}

// The same for the last channels, fewer than 16.
void mix_last_channels(const HeadRows& values, const float* shares, std::size_t first, std::size_t lanes,
                       float* y) {
  Vec sum = Vec::zero();
  for (std::size_t t = 0; t < values.length; ++t) {
    const std::uint16_t* const row = values.rows + t * values.stride + first;
    sum = Vec::fma(Vec::broadcast(shares[t]), Vec::load_half_first(row, lanes), sum);
  }
  sum.store_first(y + first, lanes);
}

// y (head_dim) = the rows weighted by `shares` and added in their order.
void mix_rows(const HeadRows& values, const float* shares, std::size_t head_dim, float* y) {
  std::size_t i = 0;
  for (; i + kMixVectors * kLanes <= head_dim; i += kMixVectors * kLanes) {
    mix_channels<kMixVectors>(values, shares, i, y);
  }
  for (; i + kLanes <= head_dim; i += kLanes) mix_channels<1>(values, shares, i, y);
  if (i < head_dim) mix_last_channels(values, shares, i, head_dim - i, y);
}

void attention(const float* query, const Memory& memory, const HeadSizes& sizes, float* probabilities,
               float* y) {
  const float scale = 1.0F / ::sqrtf(static_cast<float>(sizes.head_dim));
  const std::size_t stride = sizes.heads * sizes.head_dim, length = memory.length;
  for (std::size_t h = 0; h < sizes.heads; ++h) {
    const std::size_t first = h * sizes.head_dim;
    float* const shares = probabilities + h * length;
    score_rows({memory.keys + first, stride, length}, query + first, sizes.head_dim, scale, shares);
    softmax_row(shares, length);
    mix_rows({memory.values + first, stride, length}, shares, sizes.head_dim, y + first);
  }
}

}  // namespace
}  // namespace kserve::kernels
