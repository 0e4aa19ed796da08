// A model's tensors, checked and named. Nothing is copied: every pointer goes into the caller's arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/table.h"

namespace kserve {

constexpr std::int32_t kUnknownId = 0, kBeginId = 1, kEndId = 2, kPaddingId = 3;

enum class DataType : std::uint8_t { kFloat32, kFloat16, kInt8, kInt32, kUint32, kOther };

struct TensorView {
  DataType type = DataType::kOther;
  std::vector<std::size_t> shape;
  const void* data = nullptr;
  std::string type_name;  // as the owner calls it, for messages
};

using TensorMap = std::map<std::string, TensorView, std::less<>>;

struct LinearSpec {
  std::string kind = "kmatrix";       // or "dense"
  std::size_t width = 1;              // pairs of butterflies; kmatrix only
  std::size_t expansion = 1;          // a power of two; kmatrix only
  std::string precision = "float16";  // or "float32", "int8"; dense only
};

struct Architecture {
  std::size_t vocab_size = 0, d_model = 0, d_ffn = 0, heads = 0;
  std::vector<std::size_t> encoder_kernels, decoder_kernels;  // taps of the convolution, one number a layer
  bool glu = true;
  std::size_t max_positions = 0;
  std::map<std::string, LinearSpec, std::less<>> linear;  // site -> kind, all nine sites
};

// Throws ModelError, naming the field, what it is and what it may be.
void check(const Architecture& architecture);

// y (out) = W x (in) + bias, W in one of the two forms. A layer behind a layer norm holds the norm's gain and
// bias and normalises its input: mean 0, variance 1.
struct Linear {
  bool is_kmatrix = false;
  bool normalises = false;
  kernels::KMatrix kmatrix;
  kernels::Dense dense;
  const float* bias = nullptr;  // (out)
};

struct ConvBlock {
  Linear in, kernel, out;
  std::size_t taps = 0;
  std::size_t left = 0;  // taps before the current position
};

struct AttentionBlock {
  Linear query, key, value, out;
};

struct FfnBlock {
  Linear in, out;
};

struct EncoderLayer {
  ConvBlock conv;
  FfnBlock ffn;
};

struct DecoderLayer {
  ConvBlock conv;
  AttentionBlock attention;
  FfnBlock ffn;
};

// For every source token the target tokens that may translate it, and those that may come in any sentence.
struct Shortlist {
  const std::int32_t* first = nullptr;   // (vocab + 1) where a source token's list begins
  const std::int32_t* tokens = nullptr;  // the lists, one after the other, each ascending
  const std::int32_t* always = nullptr;  // (always_count) ascending
  std::size_t always_count = 0;

  bool exists() const { return first != nullptr; }
};

struct Weights {
  Architecture architecture;
  const std::int8_t* embedding = nullptr;  // (vocab, d); row v of E is embedding[v] * embedding_scale[v]
  const float* embedding_scale = nullptr;  // (vocab)
  const std::int8_t* panels = nullptr;     // the same numbers as the output layer reads them
  std::vector<EncoderLayer> encoder;
  std::vector<DecoderLayer> decoder;
  const float* output_gain = nullptr;  // (d) of the norm in front of the output layer
  const float* output_bias = nullptr;  // (d)
  Shortlist shortlist;
  std::size_t linear_scratch = 0;  // floats that the most demanding linear layer needs
  // What the int8 layers' kernels want to know besides their tensors (kernels::Dense::offset).
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> offsets;

  std::size_t d_head() const { return architecture.d_model / architecture.heads; }
  kernels::HeadSizes heads() const { return {architecture.heads, d_head()}; }
  std::size_t max_taps() const;
  std::size_t max_decoder_taps() const;
};

// Checks every tensor's name, type and shape against the architecture; a missing, wrong or unexpected one is
// a ModelError that names it.
Weights bind_weights(const Architecture& architecture, const TensorMap& tensors);

}  // namespace kserve
