#include "engine/forms.h"

#include <algorithm>
#include <utility>

namespace kserve {
namespace {

using NamedLayers = std::vector<std::pair<std::string, const Linear*>>;

void add_blocks(const std::string& stack, const ConvBlock& conv, const FfnBlock& ffn, NamedLayers& layers) {
  layers.insert(layers.end(), {{stack + ".conv_in", &conv.in},
                               {stack + ".kernel", &conv.kernel},
                               {stack + ".conv_out", &conv.out},
                               {stack + ".ffn_in", &ffn.in},
                               {stack + ".ffn_out", &ffn.out}});
}

NamedLayers all_layers(const Weights& weights) {
  NamedLayers layers;
  for (const EncoderLayer& layer : weights.encoder) add_blocks("encoder", layer.conv, layer.ffn, layers);
  for (const DecoderLayer& layer : weights.decoder) {
    add_blocks("decoder", layer.conv, layer.ffn, layers);
    const AttentionBlock& attention = layer.attention;
    layers.insert(layers.end(), {{"decoder.query", &attention.query},
                                 {"decoder.key", &attention.key},
                                 {"decoder.value", &attention.value},
                                 {"decoder.attn_out", &attention.out}});
  }
  return layers;
}

bool are_alike(const Linear& a, const Linear& b) {
  if (a.is_kmatrix != b.is_kmatrix) return false;
  if (!a.is_kmatrix) {
    return a.dense.in == b.dense.in && a.dense.out == b.dense.out && a.dense.precision == b.dense.precision;
  }
  return a.kmatrix.in == b.kmatrix.in && a.kmatrix.out == b.kmatrix.out &&
         a.kmatrix.inner == b.kmatrix.inner && a.kmatrix.width == b.kmatrix.width;
}

std::vector<kernels::PassForm> passes_of(const Linear& linear, const kernels::KernelTable& table) {
  if (!linear.is_kmatrix) return {};
  std::vector<kernels::PassForm> passes(table.kmatrix_passes(linear.kmatrix, nullptr, 0));
  table.kmatrix_passes(linear.kmatrix, passes.data(), passes.size());
  return passes;
}

}  // namespace

std::vector<LayerForm> layer_forms(const Model& model) {
  std::vector<LayerForm> forms;
  for (const auto& [site, linear] : all_layers(model.weights)) {
    const Linear& layer = *linear;
    auto form = std::find_if(forms.begin(), forms.end(),
                             [&](const LayerForm& known) { return are_alike(known.linear, layer); });
    if (form == forms.end()) {
      form = forms.insert(forms.end(), {{}, 0, layer, passes_of(layer, *model.table)});
    }
    ++form->layers;
    if (std::find(form->sites.begin(), form->sites.end(), site) == form->sites.end()) {
      form->sites.push_back(site);
    }
  }
  return forms;
}

}  // namespace kserve
