// The contract between training's operations and their kernels: one table of function pointers per
// instruction set, for the rows or sentences that one thread takes. Arrays of type T hold float or bfloat16;
// sums are in float. Rows are tokens; those of a batch's sentences lie one after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/table.h"
#include "training/butterfly.h"

namespace kserve::training {

using Bfloat = std::uint16_t;

// The bits that decide which numbers dropout zeroes: number i of a tensor hashes to
//   h = (i * kMixA) ^ seed;  h = (h ^ h >> 16) * kMixB;  h = (h ^ h >> 13) * kMixC;  h ^= h >> 16
// (MurmurHash3's finalizer) and is kept if h >= threshold. Nothing is stored: the backward pass hashes again.
constexpr std::uint32_t kMixA = 0x9E3779B1U, kMixB = 0x85EBCA6BU, kMixC = 0xC2B2AE35U;

struct Dropout {
  std::uint32_t seed = 0;
  std::uint32_t threshold = 0;  // probability of a zero times 2^32; 0: nothing is dropped
  float scale = 1.0F;           // of what is kept
};

struct Sizes {
  std::size_t rows, columns;
};

struct Range {
  std::size_t first, last;  // first ... last - 1
};

// sum = x + dropout(y), out = layer norm of sum. Shapes (rows, d).
template <class T>
struct AddNorm {
  std::size_t d;
  const float* x;
  const T* y;  // null: nothing is added, and sum may be null
  Dropout dropout;
  const float *gain, *bias;  // (d)
  float epsilon;
  float* sum;
  T* out;
  float* moments;  // (rows, 2): mean, 1 / standard deviation
};

template <class T>
struct AddNormBackward {
  std::size_t d;
  const float *sum, *moments, *gain;
  Dropout dropout;
  const T* grad_out;
  const float* grad_sum;  // from whatever else uses sum, or null
  float* grad_x;
  T* grad_y;  // or null
};

// x (rows, d) = dropout(table[ids] * scale + positions[places]).
struct Embed {
  std::size_t d;
  const float *table, *positions;    // (vocabulary, d), (places, d)
  const std::int32_t *ids, *places;  // (rows)
  float scale;
  Dropout dropout;
};

constexpr std::size_t kMostTaps = 256;  // of a convolution

// Sentences of a batch: sentence i has the rows offsets[i] ... offsets[i + 1] - 1. A head has d / heads
// channels, and each position and head its own `taps` shares, softmax of scores (rows, heads * taps):
//   y[t] = sum over j of shares[t, j] * x[t + j - left], within the sentence.
template <class T>
struct Convolution {
  std::size_t d, heads, taps, left;
  const std::int32_t* offsets;
  const T *x, *scores;
  float* shares;
  T* y;
};

template <class T>
struct ConvolutionBackward {
  std::size_t d, heads, taps, left;
  const std::int32_t* offsets;
  const T* x;
  const float* shares;
  const T* grad_y;
  T *grad_x, *grad_scores;
};

// Attention of a target sentence's rows over its source sentence's. `shares` holds, for each sentence, heads
// x target length x source length numbers; those of sentence i begin at share_offsets[i].
template <class T>
struct Attention {
  std::size_t d, heads;
  const std::int32_t *targets, *sources;  // offsets of the sentences' rows
  const std::int64_t* share_offsets;
  const T *query, *key, *value;
  float* shares;
  T* y;
};

template <class T>
struct AttentionBackward {
  Attention<T> forward;
  const T* grad_y;
  T *grad_query, *grad_key, *grad_value;
};

// Label-smoothed cross-entropy of scores (rows, vocabulary), which become their gradient times `weight`. A
// target below 0 makes a row count for nothing. Adds to totals (smoothed loss, negative log-likelihood).
template <class T>
struct Loss {
  std::size_t vocabulary;
  const std::int32_t* targets;
  float smoothing, weight;
  T* scores;
};

// One K-matrix of one pair B B*: M = F[L-1] ... F[0] G[0] ... G[L-1] of size 2^log_n, F of the odd and G of
// the even block (docs/design.md, "K-matrices"); each (log_n, 2^log_n / 2, 2, 2). It is grown from the
// middle: after k factors on either side it is block-diagonal with blocks of 2^k. What is kept of M is rows x
// columns of it.
template <class T>
struct Growth {
  std::size_t log_n, rows, columns;
  const float *outer, *inner;  // F, G
  T* matrix;
  std::size_t stride;  // numbers from one row of `matrix` to the next
};

template <class T>
struct GrowthBackward {
  Growth<const T> forward;         // matrix: its gradient
  float *grad_outer, *grad_inner;  // F's and G's, overwritten
};

// Blocks of up to 16 are grown with one block to a lane, 16 blocks at once; the numbers of all their steps,
// and those of their twiddles in either factor.
constexpr std::size_t kBaseLog = 4, kBase = std::size_t{1} << kBaseLog;
constexpr std::size_t kBaseNumbers = kBase * (2 * kBase - 1) * kernels::kLanes;
constexpr std::size_t kBaseTwiddles = kBaseLog * 2 * kBase * kernels::kLanes;

// Floats of scratch that growing a matrix of n = 2^log_n needs: forward, and in all with the backward pass.
[[maybe_unused]] static constexpr std::size_t growth_scratch(std::size_t log_n) {
  const std::size_t n = std::size_t{1} << log_n;
  return 2 * kBaseTwiddles + kBaseNumbers + 2 * n * log_n + 2 * n + n * n;
}
[[maybe_unused]] static constexpr std::size_t growth_backward_scratch(std::size_t log_n) {
  const std::size_t n = std::size_t{1} << log_n, block = kBase * kBase;
  return growth_scratch(log_n) + 2 * kBaseTwiddles + 2 * block * kernels::kLanes + 2 * n + n * n + block;
}

template <class T>
struct StorageTable {
  void (*add_norm)(const AddNorm<T>&, Range rows);
  // grad_gain and grad_bias (d) are added to, here and below.
  void (*add_norm_backward)(const AddNormBackward<T>&, Range rows, float* grad_gain, float* grad_bias);
  // y (rows, d) = u[:, :d] * sigmoid(u[:, d:]); grad_u (rows, 2 d).
  void (*glu)(const T* u, std::size_t d, Range rows, T* y);
  void (*glu_backward)(const T* u, const T* grad_y, std::size_t d, Range rows, T* grad_u);
  // grad_x = grad_y where y > 0, else 0, for numbers range.first ... range.last - 1.
  void (*relu_backward)(const T* y, const T* grad_y, Range range, T* grad_x);
  // sums (columns) = the sum of the rows of x (rows, columns), in the columns `range`.
  void (*add_rows)(const T* x, std::size_t rows, std::size_t columns, Range range, float* sums);
  // y (columns, rows) = x (rows, columns) transposed, the columns `range` of x.
  void (*transpose)(const T* x, Sizes sizes, Range range, T* y);
  void (*convolution)(const Convolution<T>&, Range sentences);
  void (*convolution_backward)(const ConvolutionBackward<T>&, Range sentences);
  void (*attention)(const Attention<T>&, Range sentences);
  // scratch: target length x source length of the longest pair.
  void (*attention_backward)(const AttentionBackward<T>&, Range sentences, float* scratch);
  void (*loss)(const Loss<T>&, Range rows, double* totals);
  void (*grow)(const Growth<T>&, float* scratch);
  void (*grow_backward)(const GrowthBackward<T>&, float* scratch);
};

struct TrainingTable {
  const char* isa;  // what this table is compiled for
  const ButterflyTable* butterfly;
  void (*embed)(const Embed&, Range rows, float* x);
  // grad_table (vocabulary, d) is added to, in the channels `channels` only.
  void (*embed_backward)(const Embed&, const float* grad_x, std::size_t rows, Range channels,
                         float* grad_table);
  StorageTable<float> single;
  StorageTable<Bfloat> low;

  template <class T>
  const StorageTable<T>& of() const;
};

template <>
inline const StorageTable<float>& TrainingTable::of<float>() const {
  return single;
}
template <>
inline const StorageTable<Bfloat>& TrainingTable::of<Bfloat>() const {
  return low;
}

extern const TrainingTable kScalarTraining;
#if defined(__x86_64__)
extern const TrainingTable kAvx2Training;
extern const TrainingTable kAvx512Training;
#endif

// The table for a processor that runs the kernels named `isa` (kernels/dispatch.h); "" is the best.
const TrainingTable& choose(const char* isa);

}  // namespace kserve::training
