// The parts that encoder and decoder layers are made of, each on a block of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/weights.h"

namespace kserve {

// Rows that go through a linear layer together: enough that every weight loaded serves many rows, few enough
// that their intermediate values (rows x d_ffn floats) stay in the second-level cache.
constexpr std::size_t kChunkRows = 64;

// What every computation needs and none changes.
struct Model {
  Weights weights;
  const kernels::KernelTable* table = nullptr;
  std::vector<float> positions;      // (max_positions, d), the sinusoids
  std::vector<float> embed_scale;    // (vocab), embedding scale times sqrt(d)
  std::vector<float> scale, reach;   // (panels, 16), of the output layer
  std::vector<std::int32_t> offset;  // (panels, 16), of the output layer

  // The output layer; points into this model.
  kernels::Vocabulary vocabulary() const;
};

Model make_model(Weights weights, const kernels::KernelTable& table);

// Intermediate values of at most kChunkRows rows.
struct Scratch {
  float* values = nullptr;        // (kChunkRows, d)
  float* mixed = nullptr;         // (kChunkRows, d)
  float* wide = nullptr;          // (kChunkRows, max(2 d, d_ffn, heads * most taps))
  float* taps = nullptr;          // (kChunkRows, heads * most taps)
  float* normed = nullptr;        // (kChunkRows, d), for dense layers behind a norm
  const void** window = nullptr;  // (most taps)
  float* linear = nullptr;        // the linear kernels' own
};

Scratch take_scratch(const Weights& weights, Arena& arena);

// Runs the blocks of a layer. All row pointers are (rows, d) without gaps, rows <= kChunkRows.
class Blocks {
 public:
  Blocks(const Model& model, const Scratch& scratch);

  void embed(std::int32_t id, std::size_t position, float* y) const;

  // y = W x + bias, x normalised first where the layer stands behind a norm.
  void linear(const Linear& layer, const float* x, std::size_t rows, float* y) const;

  // v = glu(conv_in(norm(x))): what the convolution runs over.
  void conv_values(const ConvBlock& block, const float* x, std::size_t rows, float* v) const;

  // The kernels that v predicts, (rows, heads, taps), in scratch; good until the next call of a block.
  float* conv_taps(const ConvBlock& block, const float* v, std::size_t rows) const;

  // x += ffn_out(relu(ffn_in(norm(x))))
  void ffn(const FfnBlock& block, std::size_t rows, float* x) const;

  // What the output layer reads: hidden (rows, d) from x (rows, d).
  void output_norm(const float* x, std::size_t rows, float* hidden) const;

  // x += W y
  void add_linear(const Linear& layer, const float* y, std::size_t rows, float* x) const;

  const Scratch& scratch() const { return scratch_; }

 private:
  void run(const Linear& layer, const float* x, std::size_t rows, kernels::Epilogue epilogue, float* y) const;

  const Model& model_;
  const Weights& weights_;
  const kernels::KernelTable& table_;
  Scratch scratch_;
  std::size_t d_;
};

}  // namespace kserve
