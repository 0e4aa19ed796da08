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

}  // namespace

Model make_model(Weights weights, const kernels::KernelTable& table) {
  const Architecture architecture = weights.architecture;
  Model model;
  model.table = &table;
  model.positions = sinusoids(architecture.max_positions, architecture.d_model);
  const double root = std::sqrt(static_cast<double>(architecture.d_model));
  model.embed_scale.reserve(architecture.vocab_size);
  for (std::size_t v = 0; v < architecture.vocab_size; ++v) {
    model.embed_scale.push_back(static_cast<float>(static_cast<double>(weights.embedding_scale[v]) * root));
  }
  model.weights = std::move(weights);
  const std::size_t outputs = kernels::panels_of(architecture.vocab_size) * kernels::kLanes;
  model.scale.assign(outputs, 0.0F);
  std::copy_n(model.weights.embedding_scale, architecture.vocab_size, model.scale.data());
  model.reach.resize(outputs);
  model.offset.resize(outputs);
  kernels::measure_vocabulary(model.vocabulary(), model.reach.data(), model.offset.data());
  return model;
}

kernels::Vocabulary Model::vocabulary() const {
  const Architecture& sizes = weights.architecture;
  return {sizes.vocab_size, sizes.d_model, weights.panels,    scale.data(),
          reach.data(),     offset.data(), weights.embedding, nullptr};
}

Scratch take_scratch(const Weights& weights, Arena& arena) {
  const Architecture& architecture = weights.architecture;
  const std::size_t d = architecture.d_model, taps = weights.max_taps();
  Scratch scratch;
  scratch.values = arena.take<float>(kChunkRows * d);
  scratch.mixed = arena.take<float>(kChunkRows * d);
  scratch.wide =
      arena.take<float>(kChunkRows * std::max({2 * d, architecture.d_ffn, architecture.heads * taps}));
  scratch.taps = arena.take<float>(kChunkRows * architecture.heads * taps);
  scratch.normed = arena.take<float>(kChunkRows * d);
  scratch.window = arena.take<const void*>(taps);
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
    const kernels::InputRows from{x, matrix.in, rows, layer.normalises};
    table_.kmatrix(matrix, from, epilogue, y, matrix.out, scratch_.linear);
    return;
  }
  const kernels::Dense& matrix = layer.dense;
  if (layer.normalises) {
    for (std::size_t r = 0; r < rows; ++r) {
      table_.layer_norm(x + r * d_, d_, nullptr, nullptr, scratch_.normed + r * d_);
    }
    x = scratch_.normed;
  }
  table_.dense(matrix, {x, matrix.in, rows, false}, epilogue, y, matrix.out, scratch_.linear);
}

void Blocks::embed(std::int32_t id, std::size_t position, float* y) const {
  const auto v = static_cast<std::size_t>(id);
  table_.embed(weights_.embedding + v * d_, d_, model_.embed_scale[v],
               model_.positions.data() + position * d_, y);
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
  if (!weights_.architecture.glu) {
    linear(block.in, x, rows, v);
    return;
  }
  linear(block.in, x, rows, scratch_.wide);
  for (std::size_t r = 0; r < rows; ++r) table_.glu(scratch_.wide + r * 2 * d_, d_, v + r * d_);
}

float* Blocks::conv_taps(const ConvBlock& block, const float* v, std::size_t rows) const {
  linear(block.kernel, v, rows, scratch_.wide);
  table_.softmax(scratch_.wide, rows * weights_.architecture.heads, block.taps, scratch_.taps);
  return scratch_.taps;
}

void Blocks::ffn(const FfnBlock& block, std::size_t rows, float* x) const {
  kernels::Epilogue relu;
  relu.activation = kernels::Activation::kRelu;
  run(block.in, x, rows, relu, scratch_.wide);
  add_linear(block.out, scratch_.wide, rows, x);
}

void Blocks::output_norm(const float* x, std::size_t rows, float* hidden) const {
  for (std::size_t r = 0; r < rows; ++r) {
    table_.layer_norm(x + r * d_, d_, weights_.output_gain, weights_.output_bias, hidden + r * d_);
  }
}

}  // namespace kserve
