// kserve._engine.timing: the clock around kernels, for benchmarks. The loops run here because a call from
// Python costs more than a kernel does; each goes through its copies of the weights in turn, so that the
// caller decides, by how many there are, in which cache the weights are found.
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind/arrays.h"
#include "bind/module.h"

namespace kserve {

namespace {

using kernels::KernelTable;

template <class Work>
double seconds(Work work) {
  const py::gil_scoped_release released;
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// words (copies, grid_rows, grid_cols, words); seconds of `calls` calls.
double time_kmatrix(const KernelTable& table, kernels::KMatrix layer, const Words& words, const Floats& x,
                    std::size_t calls) {
  expect_shape(words, "words",
               {-1, ssize(layer.grid_rows), ssize(layer.grid_cols), ssize(layer.words_per_square)});
  expect_shape(x, "x", {-1, ssize(layer.in)});
  const std::size_t rows = size_at(x, 0), copies = size_at(words, 0);
  const std::size_t each = static_cast<std::size_t>(words.size()) / copies;
  const Scratch scratch(kernels::kmatrix_scratch_floats(layer)), in(rows * layer.in), out(rows * layer.out);
  const std::vector<float> bias(layer.out, 0.0F);
  std::copy_n(x.data(), rows * layer.in, in.data());
  kernels::Epilogue epilogue;
  epilogue.bias = bias.data();
  const std::uint32_t* const first = words.data();
  return seconds([&] {
    for (std::size_t call = 0; call < calls; ++call) {
      layer.words = first + call % copies * each;
      table.kmatrix(layer, {in.data(), layer.in, rows, false}, epilogue, out.data(), layer.out,
                    scratch.data());
    }
  });
}

// Layers of one size; seconds of `calls` calls.
double time_dense(const KernelTable& table, const std::vector<const HeldDense*>& layers, const Floats& x,
                  std::size_t calls) {
  if (layers.empty()) throw std::invalid_argument("layers is empty, expected at least one");
  const std::size_t in = layers[0]->get().in, out = layers[0]->get().out;
  expect_shape(x, "x", {-1, ssize(in)});
  for (const HeldDense* layer : layers) {
    if (layer->get().in != in || layer->get().out != out) {
      throw std::invalid_argument("layers are of several sizes, expected all like the first");
    }
  }
  const std::size_t rows = size_at(x, 0);
  const Scratch scratch(kernels::dense_scratch_floats(layers[0]->get())), y(rows * out);
  const std::vector<float> bias((out + kernels::kLanes - 1) / kernels::kLanes * kernels::kLanes, 0.0F);
  kernels::Epilogue epilogue;
  epilogue.bias = bias.data();
  const kernels::InputRows from{x.data(), in, rows, false};
  return seconds([&] {
    for (std::size_t call = 0; call < calls; ++call) {
      table.dense(layers[call % layers.size()]->get(), from, epilogue, y.data(), out, scratch.data());
    }
  });
}

double time_read(const KernelTable& table, const Floats& numbers, std::size_t places, std::size_t passes) {
  expect_shape(numbers, "numbers", {-1});
  const std::size_t n = size_at(numbers, 0);
  if (n == 0 || n % 512 != 0) {
    throw std::invalid_argument("numbers has " + std::to_string(n) + " floats, expected a multiple of 512");
  }
  if (places != 1 && places != 2 && places != 4) {
    throw std::invalid_argument("places is " + std::to_string(places) + ", expected 1, 2 or 4");
  }
  const float* const from = numbers.data();
  volatile float kept = 0.0F;  // or the reading could be left out
  return seconds([&] {
    for (std::size_t pass = 0; pass < passes; ++pass) kept = table.probe->read(from, n, places);
  });
}

kernels::WordWork word_work(const std::string& name) {
  if (name == "nothing") return kernels::WordWork::kNothing;
  if (name == "widening") return kernels::WordWork::kWidening;
  if (name == "exchanging") return kernels::WordWork::kExchanging;
  throw std::invalid_argument("work is '" + name + "', expected nothing, widening or exchanging");
}

double seconds_a_word(const KernelTable& table, const std::string& work, std::size_t rounds) {
  const kernels::WordWork kind = word_work(work);
  const Scratch zeros(kernels::kProbeWords);
  std::fill_n(zeros.data(), kernels::kProbeWords, 0.0F);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(zeros.data());
  float result = 0.0F;
  std::size_t count = 0;
  const double took = seconds([&] { count = table.probe->use_words(rounds, kind, words, &result); });
  return took / static_cast<double>(count);
}

}  // namespace

void bind_timing(py::module_& module) {
  py::module_ timing = module.def_submodule("timing", "The clock around kernels, for benchmarks.");
  timing.def("kmatrix", &time_kmatrix, py::arg("kernels"), py::arg("layer"), py::arg("words").noconvert(),
             py::arg("x").noconvert(), py::arg("calls"),
             "Seconds of so many products, going through the copies of the words in turn.");
  timing.def("dense", &time_dense, py::arg("kernels"), py::arg("layers"), py::arg("x").noconvert(),
             py::arg("calls"), "Seconds of so many products, going through the layers in turn.");
  timing.def("read", &time_read, py::arg("kernels"), py::arg("numbers").noconvert(), py::arg("places"),
             py::arg("passes"), "Seconds of so many sums over all the numbers, read at 1, 2 or 4 places.");
  timing.def("seconds_a_word", &seconds_a_word, py::arg("kernels"), py::arg("work"), py::arg("rounds"),
             "Of two multiply-adds with a word of weights for each of 16 lanes, in registers. work: what is "
             "done besides: nothing, widening or exchanging (lanes, before each multiply-add).");
}

}  // namespace kserve
