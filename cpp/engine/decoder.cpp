#include "engine/decoder.h"

#include <algorithm>

namespace kserve {

Decoder::Decoder(const Model& model, const Packed& source, std::size_t max_rows, Arena& arena)
    : model_(model),
      source_(source),
      max_rows_(max_rows),
      d_(model.weights.architecture.d_model),
      ring_(model.weights.max_decoder_taps()),
      history_(model.weights.decoder.size()) {
  memory_ = arena.take<float>(2 * model.weights.decoder.size() * source.rows() * d_);
}

void Decoder::take_step_buffers(Arena& arena) {
  std::size_t longest = 0;
  for (std::size_t s = 0; s < source_.sentences(); ++s) longest = std::max(longest, source_.length(s));
  probabilities_ = arena.take<float>(model_.weights.architecture.heads * longest);
  x_ = arena.take<float>(max_rows_ * d_);
  for (std::size_t i = 0; i < history_.size(); ++i) {
    history_[i] = arena.take<float>(model_.weights.decoder[i].conv.taps * max_rows_ * d_);
  }
}

void Decoder::attend_to(const Blocks& blocks, const float* states) {
  for (std::size_t i = 0; i < model_.weights.decoder.size(); ++i) {
    const AttentionBlock& block = model_.weights.decoder[i].attention;
    for (std::size_t r = 0; r < source_.rows(); r += kChunkRows) {
      const std::size_t rows = std::min(kChunkRows, source_.rows() - r);
      blocks.linear(block.key, states + r * d_, rows, keys(i) + r * d_);
      blocks.linear(block.value, states + r * d_, rows, values(i) + r * d_);
    }
  }
}

void Decoder::fill_windows(std::size_t layer, const StepRows& rows, std::size_t first, std::size_t count,
                           const float** windows) const {
  const std::size_t taps = model_.weights.decoder[layer].conv.taps, last = taps - 1;
  for (std::size_t r = first; r < first + count; ++r) {
    const std::int32_t* ancestors = rows.ancestors + r * ring_;
    for (std::size_t j = 0; j < taps; ++j) {
      const bool inside = rows.position + j >= last;
      const std::size_t p = inside ? rows.position + j - last : 0;
      const auto row = static_cast<std::size_t>(ancestors[p % ring_]);
      *windows++ = inside ? history_[layer] + (p % taps * max_rows_ + row) * d_ : nullptr;
    }
  }
}

void Decoder::convolve(const Blocks& blocks, std::size_t layer, const StepRows& rows) {
  const ConvBlock& block = model_.weights.decoder[layer].conv;
  float* current = history_[layer] + rows.position % block.taps * max_rows_ * d_;
  for (std::size_t r = 0; r < rows.count; r += kChunkRows) {
    const std::size_t count = std::min(kChunkRows, rows.count - r);
    blocks.conv_values(block, x_ + r * d_, count, current + r * d_);
    fill_windows(layer, rows, r, count, blocks.scratch().windows);
    blocks.conv_mix(block, current + r * d_, blocks.scratch().windows, count, x_ + r * d_);
  }
}

void Decoder::attend(const Blocks& blocks, std::size_t layer, const StepRows& rows) {
  const AttentionBlock& block = model_.weights.decoder[layer].attention;
  const Architecture& architecture = model_.weights.architecture;
  float* queries = blocks.scratch().wide;
  float* mixed = blocks.scratch().mixed;
  for (std::size_t r = 0; r < rows.count; r += kChunkRows) {
    const std::size_t count = std::min(kChunkRows, rows.count - r);
    blocks.queries(block, x_ + r * d_, count, queries);
    for (std::size_t i = 0; i < count; ++i) {
      const auto sentence = static_cast<std::size_t>(rows.sentences[r + i]);
      const std::size_t first = source_.first[sentence] * d_;
      model_.table->attention(queries + i * d_, keys(layer) + first, values(layer) + first, d_,
                              source_.length(sentence), architecture.heads, model_.weights.d_head(),
                              probabilities_, mixed + i * d_);
    }
    blocks.add_linear(block.out, mixed, count, x_ + r * d_);
  }
}

void Decoder::step(const Blocks& blocks, const StepRows& rows) {
  for (std::size_t r = 0; r < rows.count; ++r) blocks.embed(rows.tokens[r], rows.position, x_ + r * d_);
  for (std::size_t i = 0; i < model_.weights.decoder.size(); ++i) {
    convolve(blocks, i, rows);
    attend(blocks, i, rows);
    for (std::size_t r = 0; r < rows.count; r += kChunkRows) {
      blocks.ffn(model_.weights.decoder[i].ffn, std::min(kChunkRows, rows.count - r), x_ + r * d_);
    }
  }
}

const float* Decoder::hidden(const Blocks& blocks, std::size_t first, std::size_t count) const {
  float* hidden = blocks.scratch().normed;
  blocks.norm(model_.weights.decoder_norm, x_ + first * d_, count, hidden);
  return hidden;
}

}  // namespace kserve
