// kserve._engine.butterfly_forward and butterfly_backward: the training kernels on float32 arrays.
#include <pybind11/numpy.h>

#include <stdexcept>
#include <string>
#include <utility>

#include "bind/module.h"
#include "training/butterfly_layer.h"
#include "training/table.h"

namespace py = pybind11;

namespace kserve {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

std::size_t size_at(const Floats& array, py::ssize_t axis) {
  return static_cast<std::size_t>(array.shape(axis));
}

// The layer whose twiddle (stacks, blocks, log2 inner, inner / 2, 2, 2) maps `in` to `out` features.
training::ButterflyLayer make_layer(const Floats& twiddle, std::size_t in, std::size_t out, std::size_t tile,
                                    const std::pair<std::string, std::size_t>& isa_threads) {
  if (twiddle.ndim() != 6 || tile == 0 || in == 0 || out == 0) {
    throw std::invalid_argument("twiddle has " + std::to_string(twiddle.ndim()) + " dimensions and tile " +
                                std::to_string(tile) +
                                "; expected (stacks, blocks, log2 n, n / 2, 2, 2) and sizes of at least 1");
  }
  training::ButterflyLayer layer;
  layer.in = in;
  layer.out = out;
  layer.tile = tile;
  layer.blocks = size_at(twiddle, 1);
  layer.log_inner = size_at(twiddle, 2);
  layer.grid_rows = (out + tile - 1) / tile;
  layer.grid_cols = (in + tile - 1) / tile;
  layer.twiddle = twiddle.data();
  layer.table = training::choose(isa_threads.first.c_str()).butterfly;
  layer.threads = isa_threads.second;
  if (size_at(twiddle, 0) != layer.grid_rows * layer.grid_cols || tile > layer.inner() ||
      size_at(twiddle, 3) * 2 != layer.inner()) {
    throw std::invalid_argument("twiddle has " + std::to_string(twiddle.shape(0)) + " stacks of size " +
                                std::to_string(layer.inner()) + "; " + std::to_string(in) + " -> " +
                                std::to_string(out) + " features in tiles of " + std::to_string(tile) +
                                " need " + std::to_string(layer.grid_rows * layer.grid_cols));
  }
  return layer;
}

Floats forward(const Floats& x, const Floats& twiddle, const Floats& bias, std::size_t tile,
               const std::string& isa, std::size_t threads) {
  if (bias.ndim() != 1) throw std::invalid_argument("bias must be (out)");
  if (x.ndim() != 2) throw std::invalid_argument("x must be (rows, in)");
  const auto layer = make_layer(twiddle, size_at(x, 1), size_at(bias, 0), tile, {isa, threads});
  Floats y({x.shape(0), bias.shape(0)});
  float* out = y.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    training::butterfly_layer_forward(layer, x.data(), size_at(x, 0), bias.data(), out);
  }
  return y;
}

std::pair<Floats, Floats> backward(const Floats& x, const Floats& twiddle, const Floats& grad,
                                   std::size_t tile, const std::string& isa, std::size_t threads) {
  if (x.ndim() != 2 || grad.ndim() != 2) throw std::invalid_argument("x and grad must be (rows, features)");
  const auto layer = make_layer(twiddle, size_at(x, 1), size_at(grad, 1), tile, {isa, threads});
  if (x.shape(0) != grad.shape(0)) throw std::invalid_argument("x and grad differ in rows");
  Floats grad_x({x.shape(0), x.shape(1)});
  Floats grad_twiddle(std::vector<py::ssize_t>(twiddle.shape(), twiddle.shape() + twiddle.ndim()));
  float* to_x = grad_x.mutable_data();
  float* to_twiddle = grad_twiddle.mutable_data();
  {
    const py::gil_scoped_release unlocked;
    training::butterfly_layer_backward(layer, x.data(), grad.data(), size_at(x, 0), to_x, to_twiddle);
  }
  return {grad_x, grad_twiddle};
}

}  // namespace

void bind_butterfly(py::module_& module) {
  module.def("butterfly_forward", &forward, py::arg("x").noconvert(), py::arg("twiddle").noconvert(),
             py::arg("bias").noconvert(), py::arg("tile"), py::arg("isa") = "", py::arg("threads") = 1,
             "y (rows, out) = x (rows, in) times the grid of K-matrices of `twiddle`, plus bias (out).");
  module.def("butterfly_backward", &backward, py::arg("x").noconvert(), py::arg("twiddle").noconvert(),
             py::arg("grad").noconvert(), py::arg("tile"), py::arg("isa") = "", py::arg("threads") = 1,
             "Gradients of x and twiddle from grad (rows, out), that of the output.");
}

}  // namespace kserve
