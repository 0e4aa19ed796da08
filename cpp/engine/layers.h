// The parts that encoder and decoder layers are made of, each on a block of rows, and the encoder itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/control.h"
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
  std::vector<float> reach;          // (vocab), of the output layer
  std::vector<std::int32_t> offset;  // (vocab), of the output layer

  // The output layer; points into this model.
  kernels::Vocabulary vocabulary() const;
};

Model make_model(Weights weights, const kernels::KernelTable& table);

// Sentences of one group, one after the other without padding: token t of sentence i is row first[i] + t.
struct Packed {
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> first;  // one more than there are sentences; the last is the number of rows

  std::size_t sentences() const { return first.size() - 1; }
  std::size_t rows() const { return first.back(); }
  std::size_t length(std::size_t sentence) const { return first[sentence + 1] - first[sentence]; }
};

// Intermediate values of at most kChunkRows rows.
struct Scratch {
  float* normed = nullptr;          // (kChunkRows, d)
  float* mixed = nullptr;           // (kChunkRows, d)
  float* wide = nullptr;            // (kChunkRows, max(2 d, d_ffn))
  float* taps = nullptr;            // (kChunkRows, heads * most taps)
  const float** windows = nullptr;  // (kChunkRows, most taps)
  float* linear = nullptr;          // the linear kernels' own
};

Scratch take_scratch(const Weights& weights, Arena& arena);

// Runs the blocks of a layer. All row pointers are (rows, d) without gaps, rows <= kChunkRows.
class Blocks {
 public:
  Blocks(const Model& model, const Scratch& scratch);

  void embed(std::int32_t id, std::size_t position, float* y) const;
  void norm(const Norm& norm, const float* x, std::size_t rows, float* y) const;
  void linear(const Linear& layer, const float* x, std::size_t rows, float* y) const;

  // v = glu(conv_in(norm(x))): what the convolution runs over.
  void conv_values(const ConvBlock& block, const float* x, std::size_t rows, float* v) const;

  // x += conv_out(dynconv(v)); windows: (rows, taps) pointers to rows of values, null outside the sentence.
  void conv_mix(const ConvBlock& block, const float* v, const float* const* windows, std::size_t rows,
                float* x) const;

  // x += ffn_out(relu(ffn_in(norm(x))))
  void ffn(const FfnBlock& block, std::size_t rows, float* x) const;

  // y = norm(x) W, the queries of an attention block.
  void queries(const AttentionBlock& block, const float* x, std::size_t rows, float* y) const;

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

// The encoder stack over packed sentences. Buffers are (rows, d).
struct EncoderBuffers {
  float* x = nullptr;       // result: the encoder's states, after encoder.norm
  float* values = nullptr;  // convolution inputs of the layer at work
};

// Throws CancelledError between two layers when the caller has cancelled.
void encode(const Model& model, const Blocks& blocks, const Packed& source, const EncoderBuffers& buffers,
            const Watch& watch);

}  // namespace kserve
