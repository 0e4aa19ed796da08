// kserve._engine.kernels: the raw kernels of each instruction set, for tests and benchmarks. Arrays are
// float32 (words of weights uint32, IEEE halves uint16, tables int8), row-major and never converted or copied
// on the way in.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "bind/arrays.h"
#include "bind/module.h"
#include "kernels/dispatch.h"
#include "kernels/layout.h"

namespace kserve {
namespace {

using kernels::KernelTable;

// What is done before and after a linear layer's product; keeps the arrays alive.
struct LinearExtras {
  std::optional<Floats> bias;
  bool relu = false;
  std::optional<Floats> residual;
  bool normalise = false;

  // zeros: (out), the bias where there is none.
  kernels::Epilogue epilogue(std::size_t rows, std::size_t out, const std::vector<float>& zeros) const {
    kernels::Epilogue result;
    result.bias = zeros.data();
    if (bias) {
      expect_shape(*bias, "bias", {ssize(out)});
      result.bias = bias->data();
    }
    if (relu) result.activation = kernels::Activation::kRelu;
    if (residual) {
      expect_shape(*residual, "residual", {ssize(rows), ssize(out)});
      result.residual = residual->data();
      result.residual_stride = out;
    }
    return result;
  }
};

Floats kmatrix(const KernelTable& table, kernels::KMatrix layer, const Words& words, const Floats& x,
               const LinearExtras& extras) {
  expect_shape(words, "words",
               {ssize(layer.grid_rows), ssize(layer.grid_cols), ssize(layer.words_per_square)});
  expect_shape(x, "x", {-1, ssize(layer.in)});
  const std::size_t rows = size_at(x, 0);
  Floats y({ssize(rows), ssize(layer.out)});
  const std::vector<float> zeros(layer.out, 0.0F);
  const kernels::Epilogue epilogue = extras.epilogue(rows, layer.out, zeros);
  const kernels::InputRows from{x.data(), layer.in, rows, extras.normalise};
  float* const to = y.mutable_data();
  layer.words = words.data();
  {
    const py::gil_scoped_release released;
    const Scratch scratch(kernels::kmatrix_scratch_floats(layer));
    table.kmatrix(layer, from, epilogue, to, layer.out, scratch.data());
  }
  return y;
}

Floats dense(const KernelTable& table, const HeldDense& held, const Floats& x, const LinearExtras& extras) {
  const kernels::Dense& layer = held.get();
  expect_shape(x, "x", {-1, ssize(layer.in)});
  if (extras.normalise)
    throw std::invalid_argument("dense layers take rows as they are; normalise them before");
  const std::size_t rows = size_at(x, 0);
  Floats y({ssize(rows), ssize(layer.out)});
  const std::vector<float> zeros(layer.out, 0.0F);
  const kernels::Epilogue epilogue = extras.epilogue(rows, layer.out, zeros);
  const kernels::InputRows from{x.data(), layer.in, rows, false};
  float* const to = y.mutable_data();
  const py::gil_scoped_release released;
  const Scratch scratch(kernels::dense_scratch_floats(layer));
  table.dense(layer, from, epilogue, to, layer.out, scratch.data());
  return y;
}

Floats layer_norm(const KernelTable& table, const Floats& x, const std::optional<Floats>& gain,
                  const std::optional<Floats>& bias) {
  expect_shape(x, "x", {-1});
  if (gain.has_value() != bias.has_value()) throw std::invalid_argument("give gain and bias, or neither");
  if (gain) expect_shape(*gain, "gain", {x.size()});
  if (bias) expect_shape(*bias, "bias", {x.size()});
  Floats y(x.size());
  table.layer_norm(x.data(), size_at(x, 0), gain ? gain->data() : nullptr, bias ? bias->data() : nullptr,
                   y.mutable_data());
  return y;
}

Floats glu(const KernelTable& table, const Floats& u) {
  expect_shape(u, "u", {-1});
  if (u.size() % 2 != 0) {
    throw std::invalid_argument("u has " + std::to_string(u.size()) + " numbers, expected an even number");
  }
  Floats y(u.size() / 2);
  table.glu(u.data(), size_at(y, 0), y.mutable_data());
  return y;
}

Floats softmax(const KernelTable& table, const Floats& x) {
  expect_shape(x, "x", {-1});
  Floats y(x.size());
  table.softmax(x.data(), 1, size_at(x, 0), y.mutable_data());
  return y;
}

// window (taps, heads * head_dim), float32 or IEEE halves; row j counts only where present[j].
template <class Number>
Floats dynconv(const KernelTable& table, const py::array_t<Number, py::array::c_style>& window,
               const std::vector<bool>& present, const Floats& weights) {
  expect_shape(window, "window", {-1, -1});
  expect_shape(weights, "weights", {-1, window.shape(0)});
  if (present.size() != size_at(window, 0)) {
    throw std::invalid_argument("present has " + std::to_string(present.size()) + " flags, expected " +
                                std::to_string(window.shape(0)) + ", one a row of window");
  }
  const std::size_t channels = size_at(window, 1), heads = size_at(weights, 0);
  std::vector<const Number*> rows(present.size(), nullptr);
  for (std::size_t j = 0; j < rows.size(); ++j) {
    if (present[j]) rows[j] = window.data() + j * channels;
  }
  Floats y(ssize(channels));
  const kernels::HeadSizes sizes{heads, channels / heads};
  if constexpr (std::is_same_v<Number, float>) {
    table.dynconv(rows.data(), weights.data(), sizes, rows.size(), y.mutable_data());
  } else {
    table.dynconv_half(rows.data(), weights.data(), sizes, rows.size(), y.mutable_data());
  }
  return y;
}

// queries (rows, heads * head_dim); keys, values: IEEE halves. Returns y, as queries, and the probabilities
// (rows, heads, length).
std::pair<Floats, Floats> attention(const KernelTable& table, const Floats& queries, const Halves& keys,
                                    const Halves& values, std::size_t heads) {
  expect_shape(queries, "queries", {-1, -1});
  expect_shape(keys, "keys", {-1, queries.shape(1)});
  expect_shape(values, "values", {keys.shape(0), queries.shape(1)});
  const std::size_t rows = size_at(queries, 0), channels = size_at(queries, 1), length = size_at(keys, 0);
  Floats y({ssize(rows), ssize(channels)});
  Floats probabilities({ssize(rows), ssize(heads), ssize(length)});
  table.attention({queries.data(), rows}, {keys.data(), values.data(), length}, {heads, channels / heads},
                  probabilities.mutable_data(), y.mutable_data());
  return {y, probabilities};
}

Halves narrow(const KernelTable& table, const Floats& x) {
  expect_shape(x, "x", {-1});
  Halves y(x.size());
  table.narrow(x.data(), size_at(x, 0), y.mutable_data());
  return y;
}

Floats embed(const KernelTable& table, const Bytes& row, float scale, const Floats& position) {
  expect_shape(row, "row", {-1});
  expect_shape(position, "position", {row.size()});
  Floats y(row.size());
  table.embed(row.data(), size_at(row, 0), scale, position.data(), y.mutable_data());
  return y;
}

void bind_layers(py::module_& module) {
  using kernels::KMatrix;
  py::class_<KMatrix>(module, "KMatrixLayer", "Sizes of a K-matrix layer and of its grid of squares.")
      .def(py::init(&kernels::kmatrix_layer), py::arg("inputs"), py::arg("outputs"), py::arg("width") = 1,
           py::arg("expansion") = 1)
      .def_readonly("inputs", &KMatrix::in)
      .def_readonly("outputs", &KMatrix::out)
      .def_readonly("width", &KMatrix::width)
      .def_readonly("tile", &KMatrix::tile)
      .def_readonly("inner", &KMatrix::inner)
      .def_readonly("grid_rows", &KMatrix::grid_rows)
      .def_readonly("grid_cols", &KMatrix::grid_cols)
      .def_readonly("words_per_square", &KMatrix::words_per_square);
  py::class_<HeldDense>(module, "DenseLayer",
                        "A dense layer in panels: uint16 (IEEE half), float32, or int8 with scales.")
      .def(py::init<std::size_t, std::size_t, py::array, std::optional<Floats>>(), py::arg("inputs"),
           py::arg("outputs"), py::arg("weights").noconvert(), py::arg("scale").noconvert() = py::none())
      .def_property_readonly("inputs", [](const HeldDense& held) { return held.get().in; })
      .def_property_readonly("outputs", [](const HeldDense& held) { return held.get().out; })
      .def_property_readonly("weights", &HeldDense::weights);
  py::class_<LinearExtras>(module, "LinearExtras",
                           "y = relu(W x + bias) + residual, x normalised first; each part optional.")
      .def(
          py::init([](std::optional<Floats> bias, bool relu, std::optional<Floats> residual, bool normalise) {
            return LinearExtras{std::move(bias), relu, std::move(residual), normalise};
          }),
          py::arg("bias").noconvert() = py::none(), py::arg("relu") = false,
          py::arg("residual").noconvert() = py::none(), py::arg("normalise") = false);
}

void bind_table(py::module_& module) {
  py::class_<KernelTable, std::unique_ptr<KernelTable, py::nodelete>>(module, "Kernels",
                                                                      "The kernels of one instruction set.")
      .def_property_readonly("name", [](const KernelTable& table) { return std::string(table.name); })
      .def("kmatrix", &kmatrix, py::arg("layer"), py::arg("words").noconvert(), py::arg("x").noconvert(),
           py::arg_v("extras", LinearExtras{}, "..."))
      .def("dense", &dense, py::arg("layer"), py::arg("x").noconvert(),
           py::arg_v("extras", LinearExtras{}, "..."))
      .def("layer_norm", &layer_norm, py::arg("x").noconvert(), py::arg("gain").noconvert() = py::none(),
           py::arg("bias").noconvert() = py::none())
      .def("glu", &glu, py::arg("u").noconvert())
      .def("softmax", &softmax, py::arg("x").noconvert())
      .def("dynconv", &dynconv<float>, py::arg("window").noconvert(), py::arg("present"),
           py::arg("weights").noconvert())
      .def("dynconv_half", &dynconv<std::uint16_t>, py::arg("window").noconvert(), py::arg("present"),
           py::arg("weights").noconvert())
      .def("attention", &attention, py::arg("queries").noconvert(), py::arg("keys").noconvert(),
           py::arg("values").noconvert(), py::arg("heads"))
      .def("narrow", &narrow, py::arg("x").noconvert())
      .def("embed", &embed, py::arg("row").noconvert(), py::arg("scale"), py::arg("position").noconvert());
}

}  // namespace

void bind_kernels(py::module_& module) {
  py::module_ kernels_module = module.def_submodule("kernels", "The raw kernels, for tests and benchmarks.");
  bind_layers(kernels_module);
  bind_table(kernels_module);
  kernels_module.def(
      "available",
      [] {
        std::vector<std::string> names;
        for (const KernelTable* table : kernels::available()) names.emplace_back(table->name);
        return names;
      },
      "Names of the instruction sets this machine can run, best first.");
  kernels_module.def(
      "choose", [](const std::string& forced) { return &kernels::choose(forced); },
      py::return_value_policy::reference, py::arg("forced") = "",
      "The best kernels, or those of the instruction set named.");
}

}  // namespace kserve
