// Which kernel runs each linear layer of a model.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "engine/layers.h"

namespace kserve {

// All layers of one shape and kind.
struct LayerForm {
  std::vector<std::string> sites;  // such as "decoder.ffn_in"
  std::size_t layers = 0;
  Linear linear;                          // one of them
  std::vector<kernels::PassForm> passes;  // of a K-matrix
};

// In the order in which the shapes come first.
std::vector<LayerForm> layer_forms(const Model& model);

}  // namespace kserve
