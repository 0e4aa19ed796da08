// The encoder stack over several sentences at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/layers.h"

namespace kserve {

// Sentences one after the other without padding: token t of sentence i is row first[i] + t.
struct Packed {
  std::vector<std::int32_t> ids;
  std::vector<std::size_t> first = {0};  // one more than there are sentences; the last is the number of rows

  void add(const std::vector<std::int32_t>& sentence) {
    ids.insert(ids.end(), sentence.begin(), sentence.end());
    first.push_back(ids.size());
  }
  std::size_t sentences() const { return first.size() - 1; }
  std::size_t rows() const { return first.back(); }
};

// Both (rows, d).
struct EncoderBuffers {
  float* x = nullptr;       // result: the encoder's states, not yet normalised
  float* values = nullptr;  // convolution inputs of the layer at work
};

EncoderBuffers take_encoder_buffers(const Model& model, std::size_t rows, Arena& arena);

// One layer, and what comes before the first.
void embed_source(const Model& model, const Blocks& blocks, const Packed& source,
                  const EncoderBuffers& buffers);
void encode_layer(const Model& model, const Blocks& blocks, const Packed& source,
                  const EncoderBuffers& buffers, std::size_t layer);

// All of it. Calls between_layers() before every layer; what that throws ends the work.
template <class Between>
void encode(const Model& model, const Blocks& blocks, const Packed& source, const EncoderBuffers& buffers,
            const Between& between_layers) {
  embed_source(model, blocks, source, buffers);
  for (std::size_t layer = 0; layer < model.weights.encoder.size(); ++layer) {
    between_layers();
    encode_layer(model, blocks, source, buffers, layer);
  }
}

}  // namespace kserve
