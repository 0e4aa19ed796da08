#include "bind/arrays.h"

#include <pybind11/stl.h>

#include <utility>

namespace kserve {

HeldDense::HeldDense(std::size_t inputs, std::size_t outputs, py::array weights, std::optional<Floats> scale)
    : weights_(std::move(weights)), scale_(std::move(scale)) {
  const py::ssize_t panels = ssize(kernels::panels_of(outputs));
  layer_.in = inputs;
  layer_.out = outputs;
  layer_.weights = weights_.data();
  const auto lanes = ssize(kernels::kLanes), bytes = ssize(kernels::kBytesPerLane);
  if ((weights_.flags() & py::array::c_style) == 0) {
    throw std::invalid_argument("weights are not contiguous in row-major order; use numpy.ascontiguousarray");
  }
  if (py::isinstance<Bytes>(weights_)) {
    if (inputs > kernels::kMaxInt8Inputs || !scale_) {
      throw std::invalid_argument("int8 weights need a scale per output and at most " +
                                  std::to_string(kernels::kMaxInt8Inputs) + " inputs, not " +
                                  std::to_string(inputs) + (scale_ ? "" : " without a scale"));
    }
    expect_shape(weights_, "weights", {panels, ssize(kernels::byte_groups(inputs)), lanes, bytes});
    expect_shape(*scale_, "scale", {panels, lanes});
    layer_.precision = kernels::Precision::kInt8;
    layer_.scale = scale_->data();
    offset_.resize(static_cast<std::size_t>(panels * lanes));
    kernels::measure_offsets(static_cast<const std::int8_t*>(weights_.data()), outputs,
                             kernels::byte_groups(inputs), offset_.data());
    layer_.offset = offset_.data();
    return;
  }
  if (!py::isinstance<Halves>(weights_) && !py::isinstance<Floats>(weights_)) {
    throw std::invalid_argument("weights are " + std::string(py::str(weights_.dtype())) +
                                ", expected uint16 (IEEE half), float32 or int8");
  }
  expect_shape(weights_, "weights", {panels, ssize(inputs), lanes});
  layer_.precision =
      py::isinstance<Floats>(weights_) ? kernels::Precision::kFloat : kernels::Precision::kHalf;
}

}  // namespace kserve
