#include "engine/weights.h"

#include <algorithm>
#include <array>
#include <set>

#include "engine/error.h"
#include "kernels/layout.h"

namespace kserve {
namespace {

constexpr std::array<std::string_view, 9> kSites = {"conv_in", "conv_out", "kernel", "query",  "key",
                                                    "value",   "attn_out", "ffn_in", "ffn_out"};
// Sites whose input is normalised.
constexpr std::array<std::string_view, 5> kBehindNorm = {"conv_in", "query", "key", "value", "ffn_in"};
// Bounds that keep every size product far from overflow and refuse nonsense early.
constexpr std::size_t kMaxSize = std::size_t{1} << 20;
constexpr std::size_t kMaxTaps = 1023;
constexpr std::size_t kMaxPositions = std::size_t{1} << 16;

std::string shape_text(const std::vector<std::size_t>& shape) {
  std::string text = "(";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::string_view type_text(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return "float32";
    case DataType::kFloat16:
      return "float16";
    case DataType::kInt8:
      return "int8";
    case DataType::kInt32:
      return "int32";
    case DataType::kUint32:
      return "uint32";
    case DataType::kOther:
      break;
  }
  return "another type";
}

bool is_power_of_two(std::size_t n) { return n != 0 && (n & (n - 1)) == 0; }

void require_range(const std::string& name, std::size_t got, std::size_t low, std::size_t high) {
  if (got >= low && got <= high) return;
  throw ModelError("architecture: " + name + " is " + std::to_string(got) + ", wanted " +
                   std::to_string(low) + " to " + std::to_string(high));
}

void check_kernels(const std::string& name, const std::vector<std::size_t>& taps) {
  require_range("number of " + name, taps.size(), 1, 256);
  for (std::size_t k : taps) {
    require_range("a number of " + name, k, 1, kMaxTaps);
    if (k % 2 == 0)
      throw ModelError("architecture: " + name + " has " + std::to_string(k) + ", wanted odd numbers");
  }
}

void check_linear(const std::string& site, const LinearSpec& spec) {
  if (std::find(kSites.begin(), kSites.end(), site) == kSites.end()) {
    throw ModelError("architecture: linear names the unknown site '" + site + "'");
  }
  if (spec.kind != "kmatrix" && spec.kind != "dense") {
    throw ModelError("architecture: linear." + site + ".kind is '" + spec.kind +
                     "', wanted 'kmatrix' or 'dense'");
  }
  if (spec.precision != "float16" && spec.precision != "float32" && spec.precision != "int8") {
    throw ModelError("architecture: linear." + site + ".precision is '" + spec.precision +
                     "', wanted 'float16', 'float32' or 'int8'");
  }
  require_range("linear." + site + ".width", spec.width, 1, 16);
  require_range("linear." + site + ".expansion", spec.expansion, 1, 64);
  if (!is_power_of_two(spec.expansion)) {
    throw ModelError("architecture: linear." + site + ".expansion is " + std::to_string(spec.expansion) +
                     ", wanted a power of two");
  }
}

// Takes tensors out of the map by name and remembers which were used.
class Binder {
 public:
  Binder(const Architecture& architecture, const TensorMap& tensors)
      : architecture_(architecture), tensors_(tensors), d_(architecture.d_model) {}

  template <class T>
  const T* take(const std::string& name, DataType type, const std::vector<std::size_t>& shape) {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      throw ModelError("tensor '" + name + "' is missing; wanted " + std::string(type_text(type)) + " " +
                       shape_text(shape));
    }
    const TensorView& tensor = found->second;
    if (tensor.type != type) {
      throw ModelError("tensor '" + name + "' is of type " + tensor.type_name + ", wanted " +
                       std::string(type_text(type)));
    }
    if (tensor.shape != shape) {
      throw ModelError("tensor '" + name + "' has shape " + shape_text(tensor.shape) + ", wanted " +
                       shape_text(shape));
    }
    if (reinterpret_cast<std::uintptr_t>(tensor.data) % sizeof(T) != 0) {
      throw ModelError("tensor '" + name + "' does not lie at a multiple of its number size, " +
                       std::to_string(sizeof(T)) + " bytes; write the bundle again");
    }
    used_.insert(name);
    return static_cast<const T*>(tensor.data);
  }

  // The layer's site, e.g. prefix "encoder.0." and site "conv_in", as a map in -> out.
  Linear linear(const std::string& prefix, std::string_view site, std::size_t in, std::size_t out) {
    const LinearSpec& spec = architecture_.linear.find(site)->second;
    const std::string name = prefix + std::string(site);
    Linear layer;
    layer.is_kmatrix = spec.kind == "kmatrix";
    layer.normalises = std::find(kBehindNorm.begin(), kBehindNorm.end(), site) != kBehindNorm.end();
    layer.bias = take<float>(name + ".bias", DataType::kFloat32, {out});
    if (layer.is_kmatrix) {
      kernels::KMatrix& matrix = layer.kmatrix = kernels::kmatrix_layer(in, out, spec.width, spec.expansion);
      matrix.words = take<std::uint32_t>(name + ".kmatrix", DataType::kUint32,
                                         {matrix.grid_rows, matrix.grid_cols, matrix.words_per_square});
      scratch_ = std::max(scratch_, kernels::kmatrix_scratch_floats(matrix));
    } else {
      layer.dense = dense(name, spec.precision, in, out);
      scratch_ = std::max(scratch_, kernels::dense_scratch_floats(layer.dense));
    }
    return layer;
  }

  kernels::Dense dense(const std::string& name, const std::string& precision, std::size_t in,
                       std::size_t out) {
    const std::size_t panels = kernels::panels_of(out);
    const std::vector<std::size_t> shape = {panels, in, kernels::kLanes};
    if (precision == "float32") {
      const auto* weights = take<float>(name + ".dense", DataType::kFloat32, shape);
      return {in, out, kernels::Precision::kFloat, weights, nullptr, nullptr};
    }
    if (precision == "float16") {
      const auto* weights = take<std::uint16_t>(name + ".dense", DataType::kFloat16, shape);
      return {in, out, kernels::Precision::kHalf, weights, nullptr, nullptr};
    }
    require_range("inputs of the int8 layer " + name, in, 1, kernels::kMaxInt8Inputs);
    const std::size_t groups = kernels::byte_groups(in);
    const auto* weights = take<std::int8_t>(name + ".dense", DataType::kInt8,
                                            {panels, groups, kernels::kLanes, kernels::kBytesPerLane});
    const auto* scale = take<float>(name + ".dense_scale", DataType::kFloat32, {panels, kernels::kLanes});
    auto offset = std::make_unique<std::vector<std::int32_t>>(panels * kernels::kLanes);
    kernels::measure_offsets(weights, out, groups, offset->data());
    offsets_.push_back(std::move(offset));
    return {in, out, kernels::Precision::kInt8, weights, scale, offsets_.back()->data()};
  }

  ConvBlock conv(const std::string& prefix, std::size_t taps, std::size_t left) {
    return {linear(prefix, "conv_in", d_, architecture_.glu ? 2 * d_ : d_),
            linear(prefix, "kernel", d_, architecture_.heads * taps), linear(prefix, "conv_out", d_, d_),
            taps, left};
  }

  FfnBlock ffn(const std::string& prefix) {
    return {linear(prefix, "ffn_in", d_, architecture_.d_ffn),
            linear(prefix, "ffn_out", architecture_.d_ffn, d_)};
  }

  AttentionBlock attention(const std::string& prefix) {
    return {linear(prefix, "query", d_, d_), linear(prefix, "key", d_, d_), linear(prefix, "value", d_, d_),
            linear(prefix, "attn_out", d_, d_)};
  }

  // The three tensors of a shortlist, or none of them.
  Shortlist shortlist() {
    Shortlist list;
    if (tensors_.find("shortlist.first") == tensors_.end()) return list;
    list.first = take<std::int32_t>("shortlist.first", DataType::kInt32, {architecture_.vocab_size + 1});
    const std::size_t total = length_of("shortlist.tokens");
    list.tokens = take<std::int32_t>("shortlist.tokens", DataType::kInt32, {total});
    list.always_count = length_of("shortlist.always");
    list.always = take<std::int32_t>("shortlist.always", DataType::kInt32, {list.always_count});
    check_shortlist(list, total);
    return list;
  }

  void refuse_unused() const {
    for (const auto& [name, tensor] : tensors_) {
      if (used_.count(name) == 0) {
        throw ModelError("tensor '" + name +
                         "' does not belong to this architecture; remove it or correct the "
                         "architecture");
      }
    }
  }

  std::size_t scratch() const { return scratch_; }
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> take_offsets() { return std::move(offsets_); }

 private:
  // Numbers of a one-dimensional tensor; 0 if it is missing, which take() then tells.
  std::size_t length_of(const std::string& name) const {
    const auto found = tensors_.find(name);
    return found == tensors_.end() || found->second.shape.size() != 1 ? 0 : found->second.shape[0];
  }

  void check_shortlist(const Shortlist& list, std::size_t total) const {
    const auto vocab = static_cast<std::int32_t>(architecture_.vocab_size);
    const auto in_range = [=](const std::int32_t* ids, std::size_t count) {
      return std::all_of(ids, ids + count, [=](std::int32_t id) { return id >= 0 && id < vocab; });
    };
    const bool ascends = std::is_sorted(list.first, list.first + vocab + 1);
    if (!ascends || list.first[0] != 0 || static_cast<std::size_t>(list.first[vocab]) != total ||
        !in_range(list.tokens, total) || !in_range(list.always, list.always_count)) {
      throw ModelError(
          "the shortlist's tensors do not fit one another: wanted ascending places from 0 to the number of "
          "tokens, and ids below the vocabulary's size; export the model again");
    }
  }

  const Architecture& architecture_;
  const TensorMap& tensors_;
  std::size_t d_;
  std::set<std::string> used_;
  std::size_t scratch_ = 0;
  std::vector<std::unique_ptr<std::vector<std::int32_t>>> offsets_;
};

}  // namespace

void check(const Architecture& architecture) {
  require_range("vocab_size", architecture.vocab_size, 5, kMaxSize);
  require_range("d_model", architecture.d_model, 4, kMaxSize);
  require_range("d_ffn", architecture.d_ffn, 1, kMaxSize);
  require_range("heads", architecture.heads, 1, architecture.d_model);
  require_range("max_positions", architecture.max_positions, 2, kMaxPositions);
  if (architecture.d_model % 2 != 0 || architecture.d_model % architecture.heads != 0) {
    throw ModelError("architecture: d_model is " + std::to_string(architecture.d_model) +
                     ", wanted an even multiple of heads, " + std::to_string(architecture.heads));
  }
  check_kernels("encoder_kernels", architecture.encoder_kernels);
  check_kernels("decoder_kernels", architecture.decoder_kernels);
  for (std::string_view site : kSites) {
    if (architecture.linear.find(site) == architecture.linear.end()) {
      throw ModelError("architecture: linear has no site '" + std::string(site) +
                       "'; all nine must be given");
    }
  }
  for (const auto& [site, spec] : architecture.linear) check_linear(site, spec);
}

std::size_t Weights::max_taps() const {
  const auto& taps = architecture.encoder_kernels;
  return std::max(*std::max_element(taps.begin(), taps.end()), max_decoder_taps());
}

std::size_t Weights::max_decoder_taps() const {
  const auto& taps = architecture.decoder_kernels;
  return *std::max_element(taps.begin(), taps.end());
}

Weights bind_weights(const Architecture& architecture, const TensorMap& tensors) {
  check(architecture);
  Binder binder(architecture, tensors);
  Weights weights;
  weights.architecture = architecture;
  const std::size_t vocab = architecture.vocab_size, d = architecture.d_model;
  weights.embedding = binder.take<std::int8_t>("embedding.table", DataType::kInt8, {vocab, d});
  weights.embedding_scale = binder.take<float>("embedding.scale", DataType::kFloat32, {vocab});
  weights.panels = binder.take<std::int8_t>(
      "output.panels", DataType::kInt8,
      {kernels::panels_of(vocab), kernels::byte_groups(d), kernels::kLanes, kernels::kBytesPerLane});
  weights.output_gain = binder.take<float>("decoder.norm.gain", DataType::kFloat32, {d});
  weights.output_bias = binder.take<float>("decoder.norm.bias", DataType::kFloat32, {d});
  weights.shortlist = binder.shortlist();
  for (std::size_t i = 0; i < architecture.encoder_kernels.size(); ++i) {
    const std::string prefix = "encoder." + std::to_string(i) + ".";
    const std::size_t taps = architecture.encoder_kernels[i];
    weights.encoder.push_back({binder.conv(prefix, taps, (taps - 1) / 2), binder.ffn(prefix)});
  }
  for (std::size_t i = 0; i < architecture.decoder_kernels.size(); ++i) {
    const std::string prefix = "decoder." + std::to_string(i) + ".";
    const std::size_t taps = architecture.decoder_kernels[i];
    weights.decoder.push_back(
        {binder.conv(prefix, taps, taps - 1), binder.attention(prefix), binder.ffn(prefix)});
  }
  binder.refuse_unused();
  weights.linear_scratch = binder.scratch();
  weights.offsets = binder.take_offsets();
  return weights;
}

}  // namespace kserve
