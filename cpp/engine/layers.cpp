#include "engine/layers.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace kserve {
namespace {

// (max_positions, d): sines in the first half of a row, cosines in the second.
std::vector<float> sinusoids(std::size_t max_positions, std::size_t d) {
  const std::size_t half = d / 2;
  const double step = -std::log(10000.0) / static_cast<double>(half - 1);
  std::vector<float> table(max_positions * d);
  for (std::size_t i = 0; i < half; ++i) {
    const double rate = std::exp(step * static_cast<double>(i));
    for (std::size_t p = 0; p < max_positions; ++p) {
      const double angle = static_cast<double>(p) * rate;
      table[p * d + i] = static_cast<float>(std::sin(angle));
      table[p * d + half + i] = static_cast<float>(std::cos(angle));
    }
  }
  return table;
}

// Rows first ... first + count - 1 of a (rows, stride) array.
struct Span {
  std::size_t first, count, stride;
};

// windows (count, taps): pointers to the values around each row of the span, null outside its own sentence.
void fill_windows(const ConvBlock& block, const Packed& source, const Span& span, const float* values,
                  const float** windows) {
  auto end = std::upper_bound(source.first.begin(), source.first.end(), span.first);  // of the row's sentence
  for (std::size_t r = span.first; r < span.first + span.count; ++r) {
    while (r >= *end) ++end;
    for (std::size_t j = 0; j < block.taps; ++j) {
      const std::size_t shifted = r + j;  // the row looked at, plus block.left to stay unsigned
      const bool inside = shifted >= *(end - 1) + block.left && shifted < *end + block.left;
      *windows++ = inside ? values + (shifted - block.left) * span.stride : nullptr;
    }
  }
}

}  // namespace

Model make_model(Weights weights, const kernels::KernelTable& table) {
  const Architecture& architecture = weights.architecture;
  Model model;
  model.table = &table;
  model.positions = sinusoids(architecture.max_positions, architecture.d_model);
  const double root = std::sqrt(static_cast<double>(architecture.d_model));
  model.embed_scale.reserve(architecture.vocab_size);
  for (std::size_t v = 0; v < architecture.vocab_size; ++v) {
    model.embed_scale.push_back(static_cast<float>(static_cast<double>(weights.embedding_scale[v]) * root));
  }
  model.weights = std::move(weights);
  model.reach.resize(model.embed_scale.size());
  model.offset.resize(model.embed_scale.size());
  kernels::measure_vocabulary(model.vocabulary(), model.reach.data(), model.offset.data());
  return model;
}

kernels::Vocabulary Model::vocabulary() const {
  const Architecture& sizes = weights.architecture;
  return {sizes.vocab_size,        sizes.d_model, weights.embedding,
          weights.embedding_scale, reach.data(),  offset.data()};
}

Scratch take_scratch(const Weights& weights, Arena& arena) {
  const Architecture& architecture = weights.architecture;
  const std::size_t d = architecture.d_model, taps = weights.max_taps();
  Scratch scratch;
  scratch.normed = arena.take<float>(kChunkRows * d);
  scratch.mixed = arena.take<float>(kChunkRows * d);
  scratch.wide = arena.take<float>(kChunkRows * std::max(2 * d, architecture.d_ffn));
  scratch.taps = arena.take<float>(kChunkRows * architecture.heads * taps);
  scratch.windows = arena.take<const float*>(kChunkRows * taps);
  scratch.linear = arena.take<float>(weights.linear_scratch);
  return scratch;
}

Blocks::Blocks(const Model& model, const Scratch& scratch)
    : model_(model),
      weights_(model.weights),
      table_(*model.table),
      scratch_(scratch),
      d_(model.weights.architecture.d_model) {}

void Blocks::run(const Linear& layer, const float* x, std::size_t rows, kernels::Epilogue epilogue,
                 float* y) const {
  epilogue.bias = layer.bias;
  if (layer.is_kmatrix) {
    const kernels::KMatrix& matrix = layer.kmatrix;
    table_.kmatrix(matrix, x, matrix.in, rows, epilogue, y, matrix.out, scratch_.linear);
  } else {
    table_.dense(layer.dense, x, layer.dense.in, rows, epilogue, y, layer.dense.out, scratch_.linear);
  }
}

void Blocks::embed(std::int32_t id, std::size_t position, float* y) const {
  const auto v = static_cast<std::size_t>(id);
  table_.embed(weights_.embedding + v * d_, d_, model_.embed_scale[v],
               model_.positions.data() + position * d_, y);
}

void Blocks::norm(const Norm& norm, const float* x, std::size_t rows, float* y) const {
  for (std::size_t r = 0; r < rows; ++r) {
    table_.layer_norm(x + r * d_, d_, norm.gain, norm.bias, kNormEpsilon, y + r * d_);
  }
}

void Blocks::linear(const Linear& layer, const float* x, std::size_t rows, float* y) const {
  run(layer, x, rows, {}, y);
}

void Blocks::add_linear(const Linear& layer, const float* y, std::size_t rows, float* x) const {
  kernels::Epilogue epilogue;
  epilogue.residual = x;
  epilogue.residual_stride = d_;
  run(layer, y, rows, epilogue, x);
}

void Blocks::conv_values(const ConvBlock& block, const float* x, std::size_t rows, float* v) const {
  norm(block.norm, x, rows, scratch_.normed);
  if (!weights_.architecture.glu) {
    linear(block.in, scratch_.normed, rows, v);
    return;
  }
  linear(block.in, scratch_.normed, rows, scratch_.wide);
  for (std::size_t r = 0; r < rows; ++r) table_.glu(scratch_.wide + r * 2 * d_, d_, v + r * d_);
}

void Blocks::conv_mix(const ConvBlock& block, const float* v, const float* const* windows, std::size_t rows,
                      float* x) const {
  const std::size_t heads = weights_.architecture.heads, taps = block.taps;
  linear(block.kernel, v, rows, scratch_.taps);
  for (std::size_t r = 0; r < rows; ++r) {
    float* weights = scratch_.taps + r * heads * taps;
    for (std::size_t h = 0; h < heads; ++h) table_.softmax(weights + h * taps, taps);
    table_.dynconv(windows + r * taps, weights, heads, weights_.d_head(), taps, scratch_.mixed + r * d_);
  }
  add_linear(block.out, scratch_.mixed, rows, x);
}

void Blocks::ffn(const FfnBlock& block, std::size_t rows, float* x) const {
  norm(block.norm, x, rows, scratch_.normed);
  kernels::Epilogue relu;
  relu.activation = kernels::Activation::kRelu;
  run(block.in, scratch_.normed, rows, relu, scratch_.wide);
  add_linear(block.out, scratch_.wide, rows, x);
}

void Blocks::queries(const AttentionBlock& block, const float* x, std::size_t rows, float* y) const {
  norm(block.norm, x, rows, scratch_.normed);
  linear(block.query, scratch_.normed, rows, y);
}

void encode(const Model& model, const Blocks& blocks, const Packed& source, const EncoderBuffers& buffers,
            const Watch& watch) {
  const std::size_t d = model.weights.architecture.d_model, total = source.rows();
  for (std::size_t s = 0; s < source.sentences(); ++s) {
    for (std::size_t r = source.first[s]; r < source.first[s + 1]; ++r) {
      blocks.embed(source.ids[r], r - source.first[s], buffers.x + r * d);
    }
  }
  for (const EncoderLayer& layer : model.weights.encoder) {
    watch.check();
    for (std::size_t r = 0; r < total; r += kChunkRows) {
      blocks.conv_values(layer.conv, buffers.x + r * d, std::min(kChunkRows, total - r),
                         buffers.values + r * d);
    }
    for (std::size_t r = 0; r < total; r += kChunkRows) {
      const std::size_t rows = std::min(kChunkRows, total - r);
      fill_windows(layer.conv, source, {r, rows, d}, buffers.values, blocks.scratch().windows);
      blocks.conv_mix(layer.conv, buffers.values + r * d, blocks.scratch().windows, rows, buffers.x + r * d);
      blocks.ffn(layer.ffn, rows, buffers.x + r * d);
    }
  }
  blocks.norm(model.weights.encoder_norm, buffers.x, total, buffers.x);
}

}  // namespace kserve
