// kserve._engine.training.Kernels: what mixes the rows of a sentence.
#include <pybind11/stl.h>

#include <algorithm>

#include "bind/training_arrays.h"

namespace kserve {
namespace {

// heads, taps, left.
using Window = std::tuple<std::size_t, std::size_t, std::size_t>;

template <class T>
std::size_t check_convolution(const Ids& offsets, const Array<T>& x, const Window& window) {
  const auto& [heads, taps, left] = window;
  expect_shape(x, "x", {-1, -1});
  if (heads == 0 || size_at(x, 1) % heads != 0 || left >= taps || taps > training::kMostTaps) {
    throw std::invalid_argument("a convolution of " + std::to_string(x.shape(1)) + " channels cannot have " +
                                std::to_string(heads) + " heads and " + std::to_string(taps) + " taps, " +
                                std::to_string(left) + " of them to the left; at most " +
                                std::to_string(training::kMostTaps) + " taps, more than are to the left");
  }
  return checked_sentences(offsets, "offsets", size_at(x, 0));
}

// Rows that belong to no sentence are zero.
template <class T>
void clear_rest(Array<T>& y, const Ids& offsets) {
  const std::size_t used = static_cast<std::size_t>(offsets.data()[offsets.size() - 1]) * size_at(y, 1);
  std::fill(y.mutable_data() + used, y.mutable_data() + y.size(), T{0});
}

template <class T>
void convolution(const TrainingKernels& kernels, const Ids& offsets, const Window& window,
                 const std::tuple<Array<T>, Array<T>>& inputs, std::tuple<Floats, Array<T>> outputs) {
  const auto& [x, scores] = inputs;
  auto& [shares, y] = outputs;
  const std::size_t sentences = check_convolution(offsets, x, window);
  const auto& [heads, taps, left] = window;
  expect_shape(scores, "scores", {x.shape(0), ssize(heads * taps)});
  expect_shape(shares, "shares", {x.shape(0), ssize(heads * taps)});
  expect_shape(y, "y", {x.shape(0), x.shape(1)});
  clear_rest(y, offsets);
  const training::Convolution<T> work = {size_at(x, 1),   heads,    taps,          left,
                                         offsets.data(),  x.data(), scores.data(), shares.mutable_data(),
                                         y.mutable_data()};
  const py::gil_scoped_release released;
  training::convolution(kernels.team, work, sentences);
}

template <class T>
void convolution_backward(const TrainingKernels& kernels, const Ids& offsets, const Window& window,
                          const std::tuple<Array<T>, Floats, Array<T>>& inputs,
                          std::tuple<Array<T>, Array<T>> outputs) {
  const auto& [x, shares, grad_y] = inputs;
  auto& [grad_x, grad_scores] = outputs;
  const std::size_t sentences = check_convolution(offsets, x, window);
  const auto& [heads, taps, left] = window;
  expect_shape(shares, "shares", {x.shape(0), ssize(heads * taps)});
  expect_shape(grad_y, "grad_y", {x.shape(0), x.shape(1)});
  expect_shape(grad_x, "grad_x", {x.shape(0), x.shape(1)});
  expect_shape(grad_scores, "grad_scores", {x.shape(0), ssize(heads * taps)});
  clear_rest(grad_x, offsets);
  clear_rest(grad_scores, offsets);
  const training::ConvolutionBackward<T> work = {size_at(x, 1),
                                                 heads,
                                                 taps,
                                                 left,
                                                 offsets.data(),
                                                 x.data(),
                                                 shares.data(),
                                                 grad_y.data(),
                                                 grad_x.mutable_data(),
                                                 grad_scores.mutable_data()};
  const py::gil_scoped_release released;
  training::convolution_backward(kernels.team, work, sentences);
}

using PairOffsets = std::tuple<Ids, Ids, Offsets>;  // of targets, sources and shares

template <class T>
using Attended = std::tuple<Array<T>, Array<T>, Array<T>>;  // query, key, value, or their gradients

// Checks all but the shares' number of floats, which the offsets must fit.
template <class T>
std::size_t check_attention(const PairOffsets& offsets, const Attended<T>& inputs, std::size_t heads) {
  const auto& [targets, sources, places] = offsets;
  const auto& [query, key, value] = inputs;
  expect_shape(query, "query", {-1, -1});
  expect_shape(key, "key", {-1, query.shape(1)});
  expect_shape(value, "value", {key.shape(0), query.shape(1)});
  if (heads == 0 || size_at(query, 1) % heads != 0) {
    throw std::invalid_argument(std::to_string(query.shape(1)) + " channels cannot have " +
                                std::to_string(heads) + " heads");
  }
  const std::size_t sentences = checked_sentences(targets, "targets", size_at(query, 0));
  checked_sentences(sources, "sources", size_at(key, 0));
  expect_shape(sources, "sources", {targets.shape(0)});
  expect_shape(places, "share_offsets", {targets.shape(0)});
  for (std::size_t i = 0; i < sentences; ++i) {
    const std::int64_t numbers = std::int64_t{targets.data()[i + 1] - targets.data()[i]} *
                                 (sources.data()[i + 1] - sources.data()[i]) *
                                 static_cast<std::int64_t>(heads);
    if (places.data()[0] != 0 || places.data()[i + 1] - places.data()[i] != numbers) {
      throw std::invalid_argument("share_offsets of sentence " + std::to_string(i) +
                                  " do not leave heads x target length x source length numbers");
    }
  }
  return sentences;
}

template <class T>
training::Attention<T> make_attention(const PairOffsets& offsets, const Attended<T>& inputs,
                                      std::size_t heads, float* shares, T* y) {
  const auto& [targets, sources, places] = offsets;
  const auto& [query, key, value] = inputs;
  return {size_at(query, 1), heads,      targets.data(), sources.data(), places.data(),
          query.data(),      key.data(), value.data(),   shares,         y};
}

template <class T>
void attention(const TrainingKernels& kernels, const PairOffsets& offsets, std::size_t heads,
               const Attended<T>& inputs, std::tuple<Floats, Array<T>> outputs) {
  auto& [shares, y] = outputs;
  const std::size_t sentences = check_attention(offsets, inputs, heads);
  const Array<T>& query = std::get<0>(inputs);
  expect_shape(shares, "shares", {std::get<2>(offsets).data()[sentences]});
  expect_shape(y, "y", {query.shape(0), query.shape(1)});
  clear_rest(y, std::get<0>(offsets));
  const auto work = make_attention(offsets, inputs, heads, shares.mutable_data(), y.mutable_data());
  const py::gil_scoped_release released;
  training::attention(kernels.team, work, sentences);
}

template <class T>
void attention_backward(const TrainingKernels& kernels, const PairOffsets& offsets, std::size_t heads,
                        const std::tuple<Attended<T>, Floats, Array<T>>& inputs, Attended<T> outputs) {
  const auto& [attended, shares, grad_y] = inputs;
  auto& [grad_query, grad_key, grad_value] = outputs;
  const std::size_t sentences = check_attention(offsets, attended, heads);
  const auto& [query, key, value] = attended;
  expect_shape(shares, "shares", {std::get<2>(offsets).data()[sentences]});
  expect_shape(grad_y, "grad_y", {query.shape(0), query.shape(1)});
  expect_shape(grad_query, "grad_query", {query.shape(0), query.shape(1)});
  expect_shape(grad_key, "grad_key", {key.shape(0), key.shape(1)});
  expect_shape(grad_value, "grad_value", {key.shape(0), key.shape(1)});
  clear_rest(grad_query, std::get<0>(offsets));
  clear_rest(grad_key, std::get<1>(offsets));
  clear_rest(grad_value, std::get<1>(offsets));
  // The backward pass only reads the shares.
  float* const read_shares = const_cast<float*>(shares.data());
  const training::AttentionBackward<T> work = {
      make_attention<T>(offsets, attended, heads, read_shares, nullptr), grad_y.data(),
      grad_query.mutable_data(), grad_key.mutable_data(), grad_value.mutable_data()};
  const py::gil_scoped_release released;
  training::attention_backward(kernels.team, work, sentences);
}

template <class T>
void bind_storage(py::class_<TrainingKernels>& kernels) {
  kernels
      .def("convolution", &convolution<T>, py::arg("offsets").noconvert(), py::arg("window"),
           py::arg("inputs").noconvert(), py::arg("outputs").noconvert(),
           "window (heads, taps, left), inputs (x, scores), outputs (shares, y): dynamic convolution within "
           "each "
           "sentence.")
      .def("convolution_backward", &convolution_backward<T>, py::arg("offsets").noconvert(),
           py::arg("window"), py::arg("inputs").noconvert(), py::arg("outputs").noconvert(),
           "inputs (x, shares, gradient of y), outputs: gradients of x and scores.")
      .def("attention", &attention<T>, py::arg("offsets").noconvert(), py::arg("heads"),
           py::arg("inputs").noconvert(), py::arg("outputs").noconvert(),
           "offsets (of targets, of sources, of shares), inputs (query, key, value), outputs (shares, y): "
           "each target "
           "sentence over its source sentence.")
      .def(
          "attention_backward", &attention_backward<T>, py::arg("offsets").noconvert(), py::arg("heads"),
          py::arg("inputs").noconvert(), py::arg("outputs").noconvert(),
          "inputs ((query, key, value), shares, gradient of y), outputs: gradients of query, key and value.");
}

}  // namespace

void bind_training_sentences(py::class_<TrainingKernels>& kernels) {
  bind_storage<float>(kernels);
  bind_storage<training::Bfloat>(kernels);
}

}  // namespace kserve
