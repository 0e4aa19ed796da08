// A model's tensors, checked and named. Nothing is copied: every pointer goes into the caller's arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/table.h"

namespace kserve {

constexpr std::int32_t kUnknownId = 0, kBeginId = 1, kEndId = 2, kPaddingId = 3;
constexpr float kNormEpsilon = 1e-5F;

enum class DataType : std::uint8_t { kFloat32, kFloat16, kInt8, kOther };

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

struct Norm {
  const float* gain = nullptr;  // (d)
  const float* bias = nullptr;  // (d)
};

// y (out) = W x (in) + bias, W in one of the two forms.
struct Linear {
  bool is_kmatrix = false;
  kernels::KMatrix kmatrix;
  kernels::Dense dense;
  const float* bias = nullptr;  // (out)
};

struct ConvBlock {
  Norm norm;
  Linear in, kernel, out;
  std::size_t taps = 0;
  std::size_t left = 0;  // taps before the current position
};

struct AttentionBlock {
  Norm norm;
  Linear query, key, value, out;
};

struct FfnBlock {
  Norm norm;
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

struct Weights {
  Architecture architecture;
  const std::int8_t* embedding = nullptr;  // (vocab, d); row v of E is embedding[v] * embedding_scale[v]
  const float* embedding_scale = nullptr;  // (vocab)
  std::vector<EncoderLayer> encoder;
  std::vector<DecoderLayer> decoder;
  Norm encoder_norm, decoder_norm;
  std::size_t linear_scratch = 0;  // floats that the most demanding linear layer needs

  std::size_t d_head() const { return architecture.d_model / architecture.heads; }
  std::size_t max_taps() const;
  std::size_t max_decoder_taps() const;
};

// Checks every tensor's name, type and shape against the architecture; a missing, wrong or unexpected one is
// a ModelError that names it.
Weights bind_weights(const Architecture& architecture, const TensorMap& tensors);

}  // namespace kserve
