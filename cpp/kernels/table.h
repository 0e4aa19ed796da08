// The contract between the engine and the kernels: one table of function pointers per instruction set.
// Everything that computes on vectors is behind it; nothing outside cpp/kernels knows an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {

// Lanes of the logical vector on which every kernel is written; physical registers may be narrower.
constexpr std::size_t kLanes = 16;

enum class Activation : std::uint8_t { kNone, kRelu };

// What happens to a linear layer's result before it is stored: y = activation(result + bias) + residual.
struct Epilogue {
  const float* bias = nullptr;  // (out), or null
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // (rows, out) with row stride residual_stride, or null; may alias y
  std::size_t residual_stride = 0;
};

// What a linear layer reads: `count` rows, `stride` floats apart. normalise: each row is brought to mean 0
// and variance 1 first, (x - mean) / sqrt(variance + kNormEpsilon), biased variance.
struct InputRows {
  const float* numbers;
  std::size_t stride, count;
  bool normalise = false;
};

// A grid of K-matrix squares in run-time layout (docs/design.md, "Run-time layout").
struct KMatrix {
  std::size_t in = 0, out = 0;  // sizes of the layer
  std::size_t tile = 0;         // n: the part of input or output that one square serves
  std::size_t inner = 0;        // m16: size of a stored square, a power of two, >= 16
  std::size_t width = 1;        // pairs of butterflies per square
  std::size_t grid_rows = 0, grid_cols = 0;
  std::size_t words_per_square = 0;
  const std::uint32_t* words = nullptr;  // (grid_rows, grid_cols, words_per_square), two numbers a word
};

// How the numbers of a dense layer are stored.
enum class Precision : std::uint8_t { kHalf, kFloat, kInt8 };

// A dense layer in panels of 16 outputs.
//   kHalf, kFloat: IEEE half or float (ceil(out / 16), in, 16).
//   kInt8: bytes (ceil(out / 16), ceil(in / 4), 16, 4), the last four inputs padded with zeros, and a scale
//   per output, (ceil(out / 16), 16). Each input row is brought to int8 with a scale of its own, and the sum
//   of products of bytes is exact, which needs in <= kMaxInt8Inputs.
struct Dense {
  std::size_t in = 0, out = 0;
  Precision precision = Precision::kHalf;
  const void* weights = nullptr;
  const float* scale = nullptr;          // kInt8 only
  const std::int32_t* offset = nullptr;  // kInt8 only: -kCodeShift times each output's sum of bytes
};

constexpr std::size_t kBytesPerLane = 4;                      // bytes multiplied in one lane of 32 bits
constexpr std::size_t kMaxInt8Inputs = std::size_t{1} << 16;  // times 255 times 127 is still below 2^31
constexpr std::size_t kDenseRowsAtOnce = 64;                  // rows whose bytes exist at one time
// Where the processor multiplies unsigned by signed bytes, this is added to each byte of a row.
constexpr int kCodeShift = 128;
constexpr float kNormEpsilon = 1e-5F;

struct HeadSizes {
  std::size_t heads, head_dim;
};

// Rows that look at the same sentence, (count, heads * head_dim).
struct Queries {
  const float* numbers;
  std::size_t count;
};

// Keys and values of a sentence, IEEE halves (length, heads * head_dim) each.
struct Memory {
  const std::uint16_t* keys;
  const std::uint16_t* values;
  std::size_t length;
};

// What the words of weights are used for besides two multiply-adds each (ProbeTable::use_words).
enum class WordWork : std::uint8_t { kNothing, kWidening, kExchanging };

constexpr std::size_t kProbeWords = 1024;  // that ProbeTable::use_words reads again and again

struct ProbeTable {
  // Sum of n floats, n a multiple of 512, by nothing but wide loads and additions, 1, 2 or 4 places at a
  // time: how fast memory is read.
  float (*read)(const float* numbers, std::size_t n, std::size_t places);

  // Does `rounds` times with some words for each of 16 lanes what a K-matrix does with them, all in
  // registers: two multiply-adds, and the widening of one of the two numbers, or an exchange of lanes before
  // each multiply-add. Returns how many words that is. words (kProbeWords): zeros, which no compiler may
  // know.
  std::size_t (*use_words)(std::size_t rounds, WordWork work, const std::uint32_t* words, float* result);
};

// A pass of a K-matrix: groups of `radix` chunks of 16 numbers stay in registers while so many rows share
// each loaded weight.
struct PassForm {
  std::size_t radix, rows_together;
};

// The output layer: the embedding table, or some of its tokens, twice: in panels of 16 tokens as in an int8
// layer, and by rows; and what measure_vocabulary works out. Arrays by token have whole panels, zeros behind
// the last token.
struct Vocabulary {
  std::size_t size = 0, n = 0;
  const std::int8_t* panels = nullptr;  // (panels, groups, 16, 4)
  const float* scale = nullptr;         // (panels, 16); a token's numbers are multiplied by it
  const float* reach = nullptr;  // (panels, 16) length of a token's row: no logit is larger for |h| <= 1
  const std::int32_t* offset = nullptr;  // (panels, 16) -kCodeShift * sum of the numbers
  const std::int8_t* rows = nullptr;     // (all tokens, n), the numbers again
  const std::int32_t* ids = nullptr;  // (size) each token's row, ascending; null where it is the token itself

  const std::int8_t* row(std::size_t token) const {
    return rows + (ids == nullptr ? token : static_cast<std::size_t>(ids[token])) * n;
  }
};

// What is asked about every row of hidden states, and where the answers go.
struct Ranking {
  std::size_t count = 0;                 // tokens wanted; 0 for the log-sum-exp alone
  const std::int32_t* barred = nullptr;  // (barred_count) ids that are never taken
  std::size_t barred_count = 0;
  std::int32_t* ids = nullptr;   // (rows, count) largest logit first, equal ones by ascending id; -1 where
                                 // there is no further token with a logit above -infinity
  float* logits = nullptr;       // (rows, count)
  float* log_sum_exp = nullptr;  // (rows) over the whole vocabulary, barred ids included
};

struct KernelTable {
  const char* name;  // "scalar", "avx2", "avx512", "avx512vnni" or "amx"

  // y (rows, out) = epilogue(x (rows, in) @ W^T). Row strides in floats. x and y must not overlap (the
  // residual may alias y). scratch: kmatrix_scratch_floats(matrix) floats, 64-byte aligned; its content is
  // lost. Any row count; a row's result does not depend on the others.
  void (*kmatrix)(const KMatrix& matrix, const InputRows& x, const Epilogue& epilogue, float* y,
                  std::size_t y_stride, float* scratch);
  // The passes that `kmatrix` makes over each square, in their order: the first `most` of them go to forms.
  // Returns how many there are.
  std::size_t (*kmatrix_passes)(const KMatrix& matrix, PassForm* forms, std::size_t most);
  // scratch: dense_scratch_floats(matrix) floats, 64-byte aligned.
  void (*dense)(const Dense& matrix, const InputRows& x, const Epilogue& epilogue, float* y,
                std::size_t y_stride, float* scratch);

  // y (n) = (x - mean) / sqrt(variance + kNormEpsilon) * gain + bias, biased variance; y may be x. gain and
  // bias both or neither.
  void (*layer_norm)(const float* x, std::size_t n, const float* gain, const float* bias, float* y);

  // y (n) = u[0:n] * sigmoid(u[n:2n]); y may be u.
  void (*glu)(const float* u, std::size_t n, float* y);

  // y (rows, n) = exp(x - max) / sum of each row of x (rows, n); y must not overlap x.
  void (*softmax)(const float* x, std::size_t rows, std::size_t n, float* y);

  // y (heads * head_dim): y[h * head_dim + i] = sum over j of weights[h * taps + j] * window[j][h * head_dim
  // + i]. window: taps row pointers; a null row counts as zeros.
  void (*dynconv)(const float* const* window, const float* weights, const HeadSizes& sizes, std::size_t taps,
                  float* y);
  // The same over rows of IEEE halves.
  void (*dynconv_half)(const std::uint16_t* const* window, const float* weights, const HeadSizes& sizes,
                       std::size_t taps, float* y);

  // Attention of query rows over the cached rows of their sentence. probabilities: scratch and result, (rows,
  // heads, length). y (rows, heads * head_dim). Scale 1/sqrt(head_dim). A row's result does not depend on the
  // others.
  void (*attention)(const Queries& queries, const Memory& memory, const HeadSizes& sizes,
                    float* probabilities, float* y);

  // y (n) = x (n) rounded to IEEE halves; what is beyond their range becomes infinite.
  void (*narrow)(const float* x, std::size_t n, std::uint16_t* y);

  // y (n) = numbers (n) * scale + position (n).
  void (*embed)(const std::int8_t* numbers, std::size_t n, float scale, const float* position, float* y);

  // logit = (h (n) . row of the token) * its scale, in fp32: the exact logit.
  float (*token_logit)(const Vocabulary& vocabulary, std::size_t token, const float* h);

  // The best tokens and the log-sum-exp of every row of h (rows, n). Which tokens, in which order, and their
  // logits are exactly what token_logit gives; the log-sum-exp adds up logits from h in 8 bits, but for the
  // largest 16: it is off by at most the length of a row of the table times that of what the 8 bits leave
  // out, in practice by some ten-thousandths. It is NaN or infinite when a number of h or a logit is. count
  // <= kMostRanked. scratch: rank_memory(n, rows, count).bytes, 64-byte aligned. A row's result does not
  // depend on the others.
  void (*rank_tokens)(const Vocabulary& vocabulary, const float* h, std::size_t rows, const Ranking& ranking,
                      void* scratch);

  // For benchmarks: what this machine can do at best.
  const ProbeTable* probe;
};

// Floats of scratch that KernelTable::kmatrix needs.
std::size_t kmatrix_scratch_floats(const KMatrix& matrix);

// Floats of scratch that KernelTable::dense needs.
std::size_t dense_scratch_floats(const Dense& matrix);

// Words in one stored square of size `inner` (a power of two >= 16) and width `width`.
std::size_t kmatrix_words(std::size_t inner, std::size_t width);

// More best tokens than this are better chosen among all logits.
constexpr std::size_t kMostRanked = 256;

// How KernelTable::rank_tokens divides its scratch memory, in bytes from its start.
struct RankMemory {
  std::size_t codes, totals, candidates;
  std::size_t candidate_bytes;  // of each row
  std::size_t bytes;            // all of it
};
RankMemory rank_memory(std::size_t n, std::size_t rows, std::size_t count);

// Groups of four numbers in a row of a panel.
constexpr std::size_t byte_groups(std::size_t n) { return (n + kBytesPerLane - 1) / kBytesPerLane; }
constexpr std::size_t panels_of(std::size_t outputs) { return (outputs + kLanes - 1) / kLanes; }

// offset (panels, 16) of panels of bytes (panels, groups, 16, 4): -kCodeShift times the sum of each output's.
void measure_offsets(const std::int8_t* panels, std::size_t outputs, std::size_t groups,
                     std::int32_t* offset);

// Fills reach and offset (panels, 16) of a vocabulary, whose other members are given.
void measure_vocabulary(const Vocabulary& vocabulary, float* reach, std::int32_t* offset);

}  // namespace kserve::kernels
