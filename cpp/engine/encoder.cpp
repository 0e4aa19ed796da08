#include "engine/encoder.h"

#include <algorithm>

namespace kserve {
namespace {

// Pointers to the values around row `row` of a sentence that spans rows begin ... end - 1, null outside of
// it.
void fill_window(const ConvBlock& block, std::size_t row, std::size_t begin, std::size_t end,
                 const float* values, std::size_t stride, const float** window) {
  for (std::size_t j = 0; j < block.taps; ++j) {
    const std::size_t shifted = row + j;  // the row looked at, plus block.left to stay unsigned
    const bool inside = shifted >= begin + block.left && shifted < end + block.left;
    window[j] = inside ? values + (shifted - block.left) * stride : nullptr;
  }
}

}  // namespace

EncoderBuffers take_encoder_buffers(const Model& model, std::size_t rows, Arena& arena) {
  const std::size_t numbers = rows * model.weights.architecture.d_model;
  return {arena.take<float>(numbers), arena.take<float>(numbers)};
}

void embed_source(const Model& model, const Blocks& blocks, const Packed& source,
                  const EncoderBuffers& buffers) {
  const std::size_t d = model.weights.architecture.d_model;
  for (std::size_t s = 0; s < source.sentences(); ++s) {
    for (std::size_t r = source.first[s]; r < source.first[s + 1]; ++r) {
      blocks.embed(source.ids[r], r - source.first[s], buffers.x + r * d);
    }
  }
}

void encode_layer(const Model& model, const Blocks& blocks, const Packed& source,
                  const EncoderBuffers& buffers, std::size_t layer) {
  const Weights& weights = model.weights;
  const ConvBlock& block = weights.encoder[layer].conv;
  const std::size_t d = weights.architecture.d_model, total = source.rows();
  const std::size_t row_taps = weights.architecture.heads * block.taps;
  for (std::size_t r = 0; r < total; r += kChunkRows) {
    blocks.conv_values(block, buffers.x + r * d, std::min(kChunkRows, total - r), buffers.values + r * d);
  }
  auto** const window = reinterpret_cast<const float**>(blocks.scratch().window);
  auto end = source.first.begin() + 1;  // of the row's sentence
  for (std::size_t first = 0; first < total; first += kChunkRows) {
    const std::size_t rows = std::min(kChunkRows, total - first);
    const float* const taps = blocks.conv_taps(block, buffers.values + first * d, rows);
    for (std::size_t i = 0; i < rows; ++i) {
      const std::size_t row = first + i;
      while (row >= *end) ++end;
      fill_window(block, row, *(end - 1), *end, buffers.values, d, window);
      model.table->dynconv(window, taps + i * row_taps, weights.heads(), block.taps,
                           blocks.scratch().mixed + i * d);
    }
    blocks.add_linear(block.out, blocks.scratch().mixed, rows, buffers.x + first * d);
    blocks.ffn(weights.encoder[layer].ffn, rows, buffers.x + first * d);
  }
}

}  // namespace kserve
