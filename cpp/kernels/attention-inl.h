// Attention of the hypotheses of one sentence over its cached keys and values, head by head.
#pragma once

#include "kernels/dynconv-inl.h"
#include "kernels/softmax-inl.h"

namespace kserve::kernels {
namespace {

// Query rows that share each key and value once it is widened to floats: those of a usual beam, and as many
// as registers hold with four keys or vectors of channels each.
constexpr std::size_t kQueriesTogether = Vec::kRegs == 1 ? 5 : 1;

// The cached rows of one head, `length` of them `stride` numbers apart.
struct HeadRows {
  const std::uint16_t* rows;
  std::size_t stride, length;
};

// What some query rows have of one head: part of their queries and results, `stride` floats apart from row to
// row, and their shares, `share_stride` apart.
struct HeadQueries {
  const float* query;
  float* shares;
  float* y;
  std::size_t stride, share_stride, head_dim;
};

// shares[q][first + k] = query q times key row first + k, k in 0 ... kCount - 1.
template <std::size_t kQueries, std::size_t kCount>
KSERVE_INLINE void dot_rows(const HeadRows& keys, std::size_t first, const HeadQueries& head) {
  const std::uint16_t* const rows = keys.rows + first * keys.stride;
  Vec sum[kQueries][kCount];
  const auto add = [&](auto load_key, auto load_query) {
    Vec key[kCount];
    KSERVE_UNROLL
    for (std::size_t k = 0; k < kCount; ++k) key[k] = load_key(rows + k * keys.stride);
    KSERVE_UNROLL
    for (std::size_t q = 0; q < kQueries; ++q) {
      const Vec query = load_query(head.query + q * head.stride);
      KSERVE_UNROLL
      for (std::size_t k = 0; k < kCount; ++k) sum[q][k] = Vec::fma(query, key[k], sum[q][k]);
    }
  };
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kQueries * kCount; ++i) sum[i / kCount][i % kCount] = Vec::zero();
  for_each_vector(
      head.head_dim,
      [&](std::size_t i) {
        add([=](const std::uint16_t* p) { return Vec::load_half(p + i); },
            [=](const float* p) { return Vec::load(p + i); });
      },
      [&](std::size_t i, std::size_t lanes) {
        add([=](const std::uint16_t* p) { return Vec::load_half_first(p + i, lanes); },
            [=](const float* p) { return Vec::load_first(p + i, lanes); });
      });
  KSERVE_UNROLL
  for (std::size_t q = 0; q < kQueries; ++q) {
    float* const dots = head.shares + q * head.share_stride + first;
    if constexpr (kCount == 4) {
      Vec::four_sums(sum[q], dots);
    } else {
      static_assert(kCount == 1);
      dots[0] = sum[q][0].sum();
    }
  }
}

// shares (kQueries, length) = softmax(scale * queries times keys).
template <std::size_t kQueries>
void share_out(const HeadRows& keys, const HeadQueries& head, float scale) {
  std::size_t t = 0;
  for (; t + 4 <= keys.length; t += 4) dot_rows<kQueries, 4>(keys, t, head);
  for (; t < keys.length; ++t) dot_rows<kQueries, 1>(keys, t, head);
  for (std::size_t q = 0; q < kQueries; ++q) {
    float* const shares = head.shares + q * head.share_stride;
    softmax_row(shares, keys.length, scale, shares);
  }
}

// Vectors of channels taken together when rows are mixed: each is one long chain of additions, several hide
// its latency.
constexpr std::size_t kMixVectors = Vec::kRegs <= 2 ? 4 : 1;

// y[q] (16 * kCount) = the rows from channel `first` on, weighted by shares[q] and added in their order.
template <std::size_t kQueries, std::size_t kCount>
KSERVE_INLINE void mix_channels(const HeadRows& values, const HeadQueries& head, std::size_t first) {
  Vec sum[kQueries][kCount];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kQueries * kCount; ++i) sum[i / kCount][i % kCount] = Vec::zero();
  for (std::size_t t = 0; t < values.length; ++t) {
    const std::uint16_t* const row = values.rows + t * values.stride + first;
    Vec value[kCount];
    KSERVE_UNROLL
    for (std::size_t v = 0; v < kCount; ++v) value[v] = Vec::load_half(row + v * kLanes);
    KSERVE_UNROLL
    for (std::size_t q = 0; q < kQueries; ++q) {
      const Vec share = Vec::broadcast(head.shares[q * head.share_stride + t]);
      KSERVE_UNROLL
      for (std::size_t v = 0; v < kCount; ++v) sum[q][v] = Vec::fma(share, value[v], sum[q][v]);
    }
  }
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kQueries * kCount; ++i) {
    sum[i / kCount][i % kCount].store(head.y + i / kCount * head.stride + first + i % kCount * kLanes);
  }
}

// The same for the last channels of query q, fewer than 16.
void mix_last_channels(const HeadRows& values, const HeadQueries& head, std::size_t q, std::size_t first) {
  const std::size_t lanes = head.head_dim - first;
  Vec sum = Vec::zero();
  for (std::size_t t = 0; t < values.length; ++t) {
    const std::uint16_t* const row = values.rows + t * values.stride + first;
    const Vec share = Vec::broadcast(head.shares[q * head.share_stride + t]);
    sum = Vec::fma(share, Vec::load_half_first(row, lanes), sum);
  }
  sum.store_first(head.y + q * head.stride + first, lanes);
}

// y (kQueries, head_dim) = the rows weighted by the shares and added in their order.
template <std::size_t kQueries>
void mix_rows(const HeadRows& values, const HeadQueries& head) {
  std::size_t i = 0;
  for (; i + kMixVectors * kLanes <= head.head_dim; i += kMixVectors * kLanes) {
    mix_channels<kQueries, kMixVectors>(values, head, i);
  }
  for (; i + kLanes <= head.head_dim; i += kLanes) mix_channels<kQueries, 1>(values, head, i);
  if (i == head.head_dim) return;
  for (std::size_t q = 0; q < kQueries; ++q) mix_last_channels(values, head, q, i);
}

struct AttentionCall {
  const Queries& queries;
  const Memory& memory;
  const HeadSizes& sizes;
  float *probabilities, *y;
};

// Takes the queries from `row` on, kQueries at a time; returns the first that is left.
template <std::size_t kQueries>
std::size_t attend(const AttentionCall& call, std::size_t row) {
  const Memory& memory = call.memory;
  const std::size_t heads = call.sizes.heads, head_dim = call.sizes.head_dim, stride = heads * head_dim;
  const float scale = 1.0F / ::sqrtf(static_cast<float>(head_dim));
  for (; row + kQueries <= call.queries.count; row += kQueries) {
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t first = h * head_dim, at = row * stride + first;
      float* const shares = call.probabilities + (row * heads + h) * memory.length;
      const HeadQueries head{call.queries.numbers + at, shares,  call.y + at, stride,
                             heads * memory.length,     head_dim};
      share_out<kQueries>({memory.keys + first, stride, memory.length}, head, scale);
      mix_rows<kQueries>({memory.values + first, stride, memory.length}, head);
    }
  }
  return row;
}

void attention(const Queries& queries, const Memory& memory, const HeadSizes& sizes, float* probabilities,
               float* y) {
  constexpr std::size_t kFew = kQueriesTogether < 2 ? 1 : 2;
  const AttentionCall call{queries, memory, sizes, probabilities, y};
  attend<1>(call, attend<kFew>(call, attend<kQueriesTogether>(call, 0)));
}

}  // namespace
}  // namespace kserve::kernels
