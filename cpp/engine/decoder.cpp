#include "engine/decoder.h"

#include <algorithm>

namespace kserve {
namespace {

// Hypotheses of a sentence that look at its keys and values together: two beams of the usual size.
constexpr std::size_t kQueriesAtOnce = 10;

// mean (length) = the mean over heads of shares (heads, length), added in the order of the heads.
void average_heads(const float* shares, std::size_t heads, std::size_t length, float* mean) {
  std::copy_n(shares, length, mean);
  for (std::size_t h = 1; h < heads; ++h) {
    for (std::size_t i = 0; i < length; ++i) mean[i] += shares[h * length + i];
  }
  for (std::size_t i = 0; i < length; ++i) mean[i] /= static_cast<float>(heads);
}

// Pointers to the row's last `taps` convolution inputs, the newest last; null before the start.
void fill_window(const StepRow& row, std::size_t layer, std::size_t taps, const std::uint16_t** window) {
  const SentenceState& sentence = *row.sentence;
  const std::size_t slots = sentence.ring(layer);
  const std::size_t known = std::min(taps, row.position + 1), before = taps - known;
  std::fill_n(window, before, nullptr);
  std::size_t slot = (row.position + 1 - known) % slots, step = (row.position + 1 - known) % row.ring;
  for (std::size_t j = before; j < taps; ++j) {
    window[j] = sentence.history(layer, slot, static_cast<std::size_t>(row.ancestors[step]));
    if (++slot == slots) slot = 0;
    if (++step == row.ring) step = 0;
  }
}

}  // namespace

SentenceState::SentenceState(const Model& model, const Sizes& sizes, Arena& arena)
    : sizes_(sizes), d_(model.weights.architecture.d_model) {
  memory_ = arena.take<std::uint16_t>(2 * model.weights.decoder.size() * sizes.source_tokens * d_);
  for (const DecoderLayer& layer : model.weights.decoder) {
    const std::size_t slots = std::min(layer.conv.taps, sizes.positions);
    history_.push_back({arena.take<std::uint16_t>(slots * sizes.lanes * d_), slots});
  }
}

Decoder::Decoder(const Model& model, std::size_t max_rows, std::size_t longest, Arena& arena)
    : model_(model), d_(model.weights.architecture.d_model) {
  x_ = arena.take<float>(max_rows * d_);
  probabilities_ = arena.take<float>(kQueriesAtOnce * model.weights.architecture.heads * longest);
}

void Decoder::attend_to(const Blocks& blocks, const float* states, const SentenceState& sentence) const {
  float* const wide = blocks.scratch().wide;
  const std::size_t length = sentence.source_tokens();
  for (std::size_t i = 0; i < model_.weights.decoder.size(); ++i) {
    const AttentionBlock& block = model_.weights.decoder[i].attention;
    for (std::size_t r = 0; r < length; r += kChunkRows) {
      const std::size_t rows = std::min(kChunkRows, length - r);
      blocks.linear(block.key, states + r * d_, rows, wide);
      model_.table->narrow(wide, rows * d_, sentence.keys(i) + r * d_);
      blocks.linear(block.value, states + r * d_, rows, wide);
      model_.table->narrow(wide, rows * d_, sentence.values(i) + r * d_);
    }
  }
}

void Decoder::convolve(const Blocks& blocks, std::size_t layer, const StepRow* rows, std::size_t count,
                       float* x) const {
  const Weights& weights = model_.weights;
  const ConvBlock& block = weights.decoder[layer].conv;
  const Scratch& scratch = blocks.scratch();
  blocks.conv_values(block, x, count, scratch.values);
  const float* const taps = blocks.conv_taps(block, scratch.values, count);
  auto** const window = reinterpret_cast<const std::uint16_t**>(scratch.window);
  for (std::size_t i = 0; i < count; ++i) {
    const StepRow& row = rows[i];
    const std::size_t slot = row.position % row.sentence->ring(layer);
    model_.table->narrow(scratch.values + i * d_, d_, row.sentence->history(layer, slot, row.lane));
    fill_window(row, layer, block.taps, window);
    model_.table->dynconv_half(window, taps + i * weights.architecture.heads * block.taps, weights.heads(),
                               block.taps, scratch.mixed + i * d_);
  }
  blocks.add_linear(block.out, scratch.mixed, count, x);
}

void Decoder::attend(const Blocks& blocks, std::size_t layer, const StepRow* rows, std::size_t count,
                     float* x) const {
  const AttentionBlock& block = model_.weights.decoder[layer].attention;
  const kernels::HeadSizes heads = model_.weights.heads();
  float* const queries = blocks.scratch().wide;
  float* const mixed = blocks.scratch().mixed;
  blocks.linear(block.query, x, count, queries);
  for (std::size_t first = 0, end = 0; first < count; first = end) {
    const SentenceState& sentence = *rows[first].sentence;
    while (end < count && end - first < kQueriesAtOnce && rows[end].sentence == &sentence) ++end;
    const kernels::Memory memory{sentence.keys(layer), sentence.values(layer), sentence.source_tokens()};
    model_.table->attention({queries + first * d_, end - first}, memory, heads, probabilities_,
                            mixed + first * d_);
    for (std::size_t i = first; i < end; ++i) {
      if (rows[i].attention == nullptr || layer != rows[i].attention_layer) continue;
      const float* const shares = probabilities_ + (i - first) * heads.heads * memory.length;
      average_heads(shares, heads.heads, memory.length, rows[i].attention);
    }
  }
  blocks.add_linear(block.out, mixed, count, x);
}

const float* Decoder::step(const Blocks& blocks, const std::vector<StepRow>& rows) {
  for (std::size_t first = 0; first < rows.size(); first += kChunkRows) {
    const std::size_t count = std::min(kChunkRows, rows.size() - first);
    const StepRow* const chunk = rows.data() + first;
    float* const x = x_ + first * d_;
    for (std::size_t i = 0; i < count; ++i) blocks.embed(chunk[i].token, chunk[i].position, x + i * d_);
    for (std::size_t layer = 0; layer < model_.weights.decoder.size(); ++layer) {
      convolve(blocks, layer, chunk, count, x);
      attend(blocks, layer, chunk, count, x);
      blocks.ffn(model_.weights.decoder[layer].ffn, count, x);
    }
  }
  return x_;
}

}  // namespace kserve
