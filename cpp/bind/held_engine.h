// The engine and what keeps its weights alive, shared by the parts of the extension module.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <string>

#include "engine/engine.h"

namespace kserve {

using Arrays = pybind11::typing::Dict<pybind11::str,
                                      pybind11::array>;  // the types are for the stub; views() checks them

// An engine and the arrays that its weights point into, in a dictionary of its own so that nobody takes them
// away.
class HeldEngine {
 public:
  HeldEngine(const Architecture& architecture, const Arrays& tensors, const std::string& isa,
             std::int64_t threads)
      : tensors_(tensors.attr("copy")()), engine_(architecture, views(tensors_), isa, threads) {}

  const Engine& get() const { return engine_; }

 private:
  static TensorMap views(const pybind11::dict& tensors);

  pybind11::dict tensors_;
  Engine engine_;
};

}  // namespace kserve
