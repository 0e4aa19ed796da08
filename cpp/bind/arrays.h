// Arrays on their way from Python to the kernels: never converted, never copied, their shapes checked.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace kserve {

namespace py = pybind11;

using Floats = py::array_t<float, py::array::c_style>;
using Halves = py::array_t<std::uint16_t, py::array::c_style>;
using Words = py::array_t<std::uint32_t, py::array::c_style>;
using Bytes = py::array_t<std::int8_t, py::array::c_style>;

// Throws unless the array `name` has this number of dimensions and, where wanted is not -1, these sizes.
inline void expect_shape(const py::array& array, const std::string& name,
                         const std::vector<py::ssize_t>& wanted) {
  bool same = array.ndim() == static_cast<py::ssize_t>(wanted.size());
  for (std::size_t i = 0; same && i < wanted.size(); ++i) {
    same = wanted[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == wanted[i];
  }
  if (same) return;
  const auto text = [](const py::ssize_t* sizes, std::size_t count) {
    std::string joined;
    for (std::size_t i = 0; i < count; ++i) {
      joined += (i > 0 ? ", " : "") + (sizes[i] < 0 ? std::string("any") : std::to_string(sizes[i]));
    }
    return "(" + joined + ")";
  };
  throw std::invalid_argument(name + " has shape " +
                              text(array.shape(), static_cast<std::size_t>(array.ndim())) + ", expected " +
                              text(wanted.data(), wanted.size()));
}

inline std::size_t size_at(const py::array& array, py::ssize_t axis) {
  return static_cast<std::size_t>(array.shape(axis));
}

inline py::ssize_t ssize(std::size_t n) { return static_cast<py::ssize_t>(n); }

// Memory at a multiple of 64 bytes, as the kernels want their scratch.
class Scratch {
 public:
  explicit Scratch(std::size_t floats)
      : data_(static_cast<float*>(::operator new(floats * sizeof(float), std::align_val_t{64}))) {}
  ~Scratch() { ::operator delete(data_, std::align_val_t{64}); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

// A dense layer and the arrays that it points into.
class HeldDense {
 public:
  HeldDense(std::size_t inputs, std::size_t outputs, py::array weights, std::optional<Floats> scale);

  const kernels::Dense& get() const { return layer_; }
  const py::array& weights() const { return weights_; }

 private:
  py::array weights_;
  std::optional<Floats> scale_;
  std::vector<std::int32_t> offset_;
  kernels::Dense layer_;
};

}  // namespace kserve
