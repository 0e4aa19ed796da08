// kserve._engine: the engine for Python. Arrays are used where they lie; the interpreter lock is released
// while sentences are translated.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind_options.h"
#include "bind/held_engine.h"
#include "bind/module.h"
#include "engine/error.h"
#include "kernels/dispatch.h"

namespace py = pybind11;

namespace kserve {
namespace {

using Sizes = std::vector<std::int64_t>;
DataType data_type(const py::dtype& type) {
  // '<' and '=' are both this machine's byte order, '|' is for types of one byte.
  const bool native = type.byteorder() == '=' || type.byteorder() == '<' || type.byteorder() == '|';
  if (native && type.kind() == 'f' && type.itemsize() == 4) return DataType::kFloat32;
  if (native && type.kind() == 'f' && type.itemsize() == 2) return DataType::kFloat16;
  if (native && type.kind() == 'i' && type.itemsize() == 1) return DataType::kInt8;
  if (native && type.kind() == 'i' && type.itemsize() == 4) return DataType::kInt32;
  if (native && type.kind() == 'u' && type.itemsize() == 4) return DataType::kUint32;
  return DataType::kOther;
}

}  // namespace

TensorMap HeldEngine::views(const py::dict& tensors) {
  TensorMap map;
  for (const auto& [key, value] : tensors) {
    if (!py::isinstance<py::str>(key))
      throw ModelError("tensors: a key is " + std::string(py::repr(key)) + ", wanted a name");
    const auto name = key.cast<std::string>();
    if (!py::isinstance<py::array>(value)) {
      throw ModelError("tensor '" + name + "' is a " +
                       std::string(py::str(py::type::of(value).attr("__name__"))) + ", wanted a NumPy array");
    }
    const auto array = py::reinterpret_borrow<py::array>(value);
    if ((array.flags() & py::array::c_style) == 0) {
      throw ModelError("tensor '" + name +
                       "' is not contiguous in row-major order; use numpy.ascontiguousarray");
    }
    TensorView view;
    view.type = data_type(array.dtype());
    view.shape.assign(array.shape(), array.shape() + array.ndim());
    view.data = array.data();
    view.type_name = std::string(py::str(array.dtype()));
    map.emplace(name, std::move(view));
  }
  return map;
}

namespace {

std::size_t positive(const char* name, std::int64_t value) {
  if (value < 1)
    throw ModelError(std::string("architecture: ") + name + " is " + std::to_string(value) +
                     ", wanted at least 1");
  return static_cast<std::size_t>(value);
}

std::vector<std::size_t> positive(const char* name, const Sizes& values) {
  std::vector<std::size_t> sizes;
  for (std::int64_t value : values) sizes.push_back(positive(name, value));
  return sizes;
}

LinearSpec make_linear(std::string kind, std::int64_t width, std::int64_t expansion, std::string precision) {
  return {std::move(kind), positive("width", width), positive("expansion", expansion), std::move(precision)};
}

std::string linear_text(const LinearSpec& spec) {
  if (spec.kind == "dense") return "LinearSpec(kind='dense', precision='" + spec.precision + "')";
  return "LinearSpec(kind='" + spec.kind + "', width=" + std::to_string(spec.width) +
         ", expansion=" + std::to_string(spec.expansion) + ")";
}

void bind_architecture(py::module_& module) {
  py::class_<LinearSpec>(module, "LinearSpec", "How the linear layer of one site is stored.")
      .def(py::init(&make_linear), py::arg("kind"), py::arg("width") = 1, py::arg("expansion") = 1,
           py::arg("precision") = "float16")
      .def_readonly("kind", &LinearSpec::kind)
      .def_readonly("width", &LinearSpec::width)
      .def_readonly("expansion", &LinearSpec::expansion)
      .def_readonly("precision", &LinearSpec::precision)
      .def("__repr__", &linear_text);
  using LinearMap = std::map<std::string, LinearSpec, std::less<>>;
  const auto make = [](std::int64_t vocab_size, std::int64_t d_model, std::int64_t d_ffn, std::int64_t heads,
                       const Sizes& encoder_kernels, const Sizes& decoder_kernels, bool glu,
                       std::int64_t max_positions, LinearMap linear) {
    return Architecture{positive("vocab_size", vocab_size),
                        positive("d_model", d_model),
                        positive("d_ffn", d_ffn),
                        positive("heads", heads),
                        positive("encoder_kernels", encoder_kernels),
                        positive("decoder_kernels", decoder_kernels),
                        glu,
                        positive("max_positions", max_positions),
                        std::move(linear)};
  };
  py::class_<Architecture>(module, "Architecture", "The sizes of a model, as in a bundle's config.json.")
      .def(py::init(make), py::arg("vocab_size"), py::arg("d_model"), py::arg("d_ffn"), py::arg("heads"),
           py::arg("encoder_kernels"), py::arg("decoder_kernels"), py::arg("glu"), py::arg("max_positions"),
           py::arg("linear"))
      .def_readonly("vocab_size", &Architecture::vocab_size)
      .def_readonly("d_model", &Architecture::d_model)
      .def_readonly("d_ffn", &Architecture::d_ffn)
      .def_readonly("heads", &Architecture::heads)
      .def_readonly("encoder_kernels", &Architecture::encoder_kernels)
      .def_readonly("decoder_kernels", &Architecture::decoder_kernels)
      .def_readonly("glu", &Architecture::glu)
      .def_readonly("max_positions", &Architecture::max_positions)
      .def_readonly("linear", &Architecture::linear);
}

using Translations = std::vector<std::vector<Hypothesis>>;

Translations translate(const HeldEngine& held, const std::vector<Sentence>& sources,
                       const DecodingOptions& options, const std::vector<Sentence>& prefixes) {
  const py::gil_scoped_release unlocked;
  return held.get().translate(sources, options, prefixes);
}

std::vector<std::vector<double>> score(const HeldEngine& held, const std::vector<Sentence>& sources,
                                       const std::vector<Sentence>& targets,
                                       const std::optional<std::shared_ptr<CancelToken>>& cancel) {
  const py::gil_scoped_release unlocked;
  return held.get().score(sources, targets, cancel.value_or(nullptr));
}

py::array_t<float> encode_source(const HeldEngine& held, const Sentence& source) {
  auto states = std::make_unique<std::vector<float>>();
  {
    const py::gil_scoped_release unlocked;
    *states = held.get().encode(source);
  }
  const std::size_t d = held.get().architecture().d_model;
  py::array_t<float> array({source.size(), d});
  std::copy(states->begin(), states->end(), array.mutable_data());
  return array;
}

std::string precision_text(const Linear& layer) {
  if (layer.is_kmatrix) return "two numbers in 32 bits";
  switch (layer.dense.precision) {
    case kernels::Precision::kHalf:
      return "float16";
    case kernels::Precision::kFloat:
      return "float32";
    case kernels::Precision::kInt8:
      return "int8";
  }
  return "";
}

void bind_forms(py::module_& module) {
  using kernels::PassForm;
  py::class_<PassForm>(module, "PassForm", "A pass over the squares of a K-matrix.")
      .def_readonly("radix", &PassForm::radix, "Chunks of 16 numbers that stay in registers together.")
      .def_readonly("rows_together", &PassForm::rows_together, "Rows that share each loaded weight.");
  py::class_<LayerForm>(module, "LayerForm", "How the engine runs all linear layers of one shape and kind.")
      .def_readonly("sites", &LayerForm::sites, "Where they are, such as decoder.ffn_in.")
      .def_readonly("layers", &LayerForm::layers, "How many there are.")
      .def_readonly("passes", &LayerForm::passes, "Over each square, in order; empty for dense layers.")
      .def_property_readonly(
          "kind", [](const LayerForm& form) { return form.linear.is_kmatrix ? "kmatrix" : "dense"; })
      .def_property_readonly("precision", [](const LayerForm& form) { return precision_text(form.linear); })
      .def_property_readonly("inputs",
                             [](const LayerForm& form) {
                               const Linear& layer = form.linear;
                               return layer.is_kmatrix ? layer.kmatrix.in : layer.dense.in;
                             })
      .def_property_readonly("outputs",
                             [](const LayerForm& form) {
                               const Linear& layer = form.linear;
                               return layer.is_kmatrix ? layer.kmatrix.out : layer.dense.out;
                             })
      .def_property_readonly(
          "square", [](const LayerForm& form) { return form.linear.kmatrix.inner; },
          "Numbers that a square of the K-matrix works on; 0 for dense layers.")
      .def_property_readonly("width", [](const LayerForm& form) { return form.linear.kmatrix.width; })
      .def_property_readonly(
          "grid",
          [](const LayerForm& form) {
            return std::make_pair(form.linear.kmatrix.grid_rows, form.linear.kmatrix.grid_cols);
          },
          "Rows and columns of squares; zeros for dense layers.");
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const kernels::KernelTable* table : kernels::available()) names.emplace_back(table->name);
  return names;
}

}  // namespace

void bind_engine(py::module_& module) {
  const py::exception<Error> base = py::register_exception<Error>(module, "EngineError", PyExc_ValueError);
  py::register_exception<OptionError>(module, "OptionError", base);
  py::register_exception<CancelledError>(module, "Cancelled", base);
  bind_architecture(module);
  bind_decoding(module);
  bind_forms(module);
  py::class_<HeldEngine>(module, "Engine",
                         "A model ready to translate; may be used from several threads at once.")
      .def(py::init<const Architecture&, const Arrays&, const std::string&, std::int64_t>(),
           py::arg("architecture"), py::arg("tensors"), py::arg("isa") = "", py::arg("threads") = 1)
      .def("translate", &translate, py::arg("sources"), py::arg("options"),
           py::arg("prefixes") = std::vector<Sentence>(),
           "The n_best translations of every source (token ids, the end id last), best first. prefixes: "
           "tokens "
           "that each target must begin with, or none.")
      .def("score", &score, py::arg("sources"), py::arg("targets"), py::arg("cancel") = py::none(),
           "Log-probabilities of the tokens of given targets, and of the end token after each.")
      .def("encode", &encode_source, py::arg("source"),
           "The encoder's states of one source, each normalised, (time, d_model).")
      .def_property_readonly("isa", [](const HeldEngine& held) { return std::string(held.get().isa()); })
      .def_property_readonly("threads", [](const HeldEngine& held) { return held.get().threads(); })
      .def(
          "layer_forms", [](const HeldEngine& held) { return held.get().layer_forms(); },
          "Which kernel runs the linear layers, shape by shape.")
      .def_property_readonly(
          "workspace_bytes", [](const HeldEngine& held) { return held.get().workspace_bytes(); },
          "Memory held for computing, all workers together.");
  module.def("available_isas", &available_isas, "Instruction sets this machine can run, best first.");
}

}  // namespace kserve
