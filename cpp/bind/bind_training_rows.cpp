// kserve._engine.training.Kernels: what is done row by row. Results are written into arrays of the caller's.
#include <pybind11/stl.h>

#include "bind/training_arrays.h"

namespace kserve {
namespace {

using Pair = std::pair<double, double>;

template <class T>
void add_norm(const TrainingKernels& kernels, const std::tuple<Floats, Array<T>>& inputs,
              const DropoutChoice& dropout, const std::tuple<Floats, Floats, float>& norm,
              std::tuple<Floats, Array<T>, Floats> outputs) {
  const auto& [x, y] = inputs;
  const auto& [gain, bias, epsilon] = norm;
  auto& [sum, out, moments] = outputs;
  expect_shape(x, "x", {-1, -1});
  const py::ssize_t rows = x.shape(0), d = x.shape(1);
  const bool adds = y.size() > 0;
  if (adds) expect_shape(y, "y", {rows, d});
  expect_shape(gain, "gain", {d});
  expect_shape(bias, "bias", {d});
  expect_shape(sum, "sum", {adds ? rows : 0, d});
  expect_shape(out, "out", {rows, d});
  expect_shape(moments, "moments", {rows, 2});
  const training::AddNorm<T> work = {size_at(x, 1),
                                     x.data(),
                                     adds ? y.data() : nullptr,
                                     make_dropout(dropout),
                                     gain.data(),
                                     bias.data(),
                                     epsilon,
                                     adds ? sum.mutable_data() : nullptr,
                                     out.mutable_data(),
                                     moments.mutable_data()};
  const py::gil_scoped_release released;
  training::add_norm(kernels.team, work, static_cast<std::size_t>(rows));
}

template <class T>
void add_norm_backward(const TrainingKernels& kernels, const std::tuple<Floats, Floats, Floats>& saved,
                       const DropoutChoice& dropout, const std::tuple<Array<T>, Floats>& grads,
                       std::tuple<Floats, Array<T>, Floats, Floats> outputs) {
  const auto& [sum, moments, gain] = saved;
  const auto& [grad_out, grad_sum] = grads;
  auto& [grad_x, grad_y, grad_gain, grad_bias] = outputs;
  expect_shape(sum, "sum", {-1, -1});
  const py::ssize_t rows = sum.shape(0), d = sum.shape(1);
  expect_shape(moments, "moments", {rows, 2});
  expect_shape(gain, "gain", {d});
  expect_shape(grad_out, "grad_out", {rows, d});
  if (grad_sum.size() > 0) expect_shape(grad_sum, "grad_sum", {rows, d});
  expect_shape(grad_x, "grad_x", {rows, d});
  if (grad_y.size() > 0) expect_shape(grad_y, "grad_y", {rows, d});
  expect_shape(grad_gain, "grad_gain", {d});
  expect_shape(grad_bias, "grad_bias", {d});
  const training::AddNormBackward<T> work = {size_at(sum, 1),
                                             sum.data(),
                                             moments.data(),
                                             gain.data(),
                                             make_dropout(dropout),
                                             grad_out.data(),
                                             grad_sum.size() > 0 ? grad_sum.data() : nullptr,
                                             grad_x.mutable_data(),
                                             grad_y.size() > 0 ? grad_y.mutable_data() : nullptr};
  float *const to_gain = grad_gain.mutable_data(), *const to_bias = grad_bias.mutable_data();
  const py::gil_scoped_release released;
  training::add_norm_backward(kernels.team, work, static_cast<std::size_t>(rows), to_gain, to_bias);
}

template <class T>
void glu(const TrainingKernels& kernels, const Array<T>& u, Array<T> y) {
  expect_shape(y, "y", {-1, -1});
  expect_shape(u, "u", {y.shape(0), 2 * y.shape(1)});
  T* const to = y.mutable_data();
  const T* const from = u.data();
  const std::size_t rows = size_at(y, 0), d = size_at(y, 1);
  const py::gil_scoped_release released;
  training::glu(kernels.team, from, d, rows, to);
}

template <class T>
void glu_backward(const TrainingKernels& kernels, const Array<T>& u, const Array<T>& grad_y,
                  Array<T> grad_u) {
  expect_shape(grad_y, "grad_y", {-1, -1});
  expect_shape(u, "u", {grad_y.shape(0), 2 * grad_y.shape(1)});
  expect_shape(grad_u, "grad_u", {grad_y.shape(0), 2 * grad_y.shape(1)});
  T* const to = grad_u.mutable_data();
  const T *const from = u.data(), *const grad = grad_y.data();
  const std::size_t rows = size_at(grad_y, 0), d = size_at(grad_y, 1);
  const py::gil_scoped_release released;
  training::glu_backward(kernels.team, from, grad, d, rows, to);
}

template <class T>
void relu_backward(const TrainingKernels& kernels, const Array<T>& y, const Array<T>& grad_y,
                   Array<T> grad_x) {
  expect_shape(y, "y", {-1, -1});
  expect_shape(grad_y, "grad_y", {y.shape(0), y.shape(1)});
  expect_shape(grad_x, "grad_x", {y.shape(0), y.shape(1)});
  T* const to = grad_x.mutable_data();
  const T *const output = y.data(), *const grad = grad_y.data();
  const auto numbers = static_cast<std::size_t>(y.size());
  const py::gil_scoped_release released;
  training::relu_backward(kernels.team, output, grad, numbers, to);
}

template <class T>
void add_rows(const TrainingKernels& kernels, const Array<T>& x, Floats sums) {
  expect_shape(x, "x", {-1, -1});
  expect_shape(sums, "sums", {x.shape(1)});
  float* const to = sums.mutable_data();
  const T* const from = x.data();
  const std::size_t rows = size_at(x, 0), columns = size_at(x, 1);
  const py::gil_scoped_release released;
  training::add_rows(kernels.team, from, rows, columns, to);
}

template <class T>
void transpose(const TrainingKernels& kernels, const Array<T>& x, Array<T> y) {
  expect_shape(x, "x", {-1, -1});
  expect_shape(y, "y", {x.shape(1), x.shape(0)});
  T* const to = y.mutable_data();
  const T* const from = x.data();
  const training::Sizes sizes = {size_at(x, 0), size_at(x, 1)};
  const py::gil_scoped_release released;
  training::transpose(kernels.team, from, sizes, to);
}

// scores (rows, vocabulary) become their gradient; returns the smoothed loss and the negative log-likelihood.
template <class T>
Pair loss(const TrainingKernels& kernels, Array<T> scores, const Ids& targets, float smoothing,
          float weight) {
  expect_shape(scores, "scores", {-1, -1});
  expect_shape(targets, "targets", {scores.shape(0)});
  const std::size_t rows = size_at(scores, 0);
  for (std::size_t i = 0; i < rows; ++i) {
    if (targets.data()[i] >= scores.shape(1)) {
      throw std::invalid_argument("target " + std::to_string(targets.data()[i]) +
                                  " is outside a vocabulary of " + std::to_string(scores.shape(1)));
    }
  }
  const training::Loss<T> work = {size_at(scores, 1), targets.data(), smoothing, weight,
                                  scores.mutable_data()};
  double totals[2];
  {
    const py::gil_scoped_release released;
    training::loss(kernels.team, work, rows, totals);
  }
  return {totals[0], totals[1]};
}

using Tables = std::tuple<Floats, Floats>;  // embedding, positions
using Places = std::tuple<Ids, Ids>;        // row of either table, by token

training::Embed make_embed(const Tables& tables, const Places& places, float scale,
                           const DropoutChoice& dropout) {
  const auto& [table, positions] = tables;
  const auto& [ids, position_ids] = places;
  expect_shape(table, "table", {-1, -1});
  expect_shape(positions, "positions", {-1, table.shape(1)});
  expect_shape(ids, "ids", {-1});
  expect_shape(position_ids, "places", {ids.shape(0)});
  for (py::ssize_t i = 0; i < ids.size(); ++i) {
    const std::int32_t id = ids.data()[i], place = position_ids.data()[i];
    if (id < 0 || id >= table.shape(0) || place < 0 || place >= positions.shape(0)) {
      throw std::invalid_argument("token " + std::to_string(id) + " at position " + std::to_string(place) +
                                  " is outside a vocabulary of " + std::to_string(table.shape(0)) + " and " +
                                  std::to_string(positions.shape(0)) + " positions");
    }
  }
  return {size_at(table, 1),   table.data(), positions.data(),     ids.data(),
          position_ids.data(), scale,        make_dropout(dropout)};
}

void embed(const TrainingKernels& kernels, const Tables& tables, const Places& places,
           const std::pair<float, DropoutChoice>& scale_dropout, Floats x) {
  const training::Embed work = make_embed(tables, places, scale_dropout.first, scale_dropout.second);
  const std::size_t rows = size_at(std::get<0>(places), 0);
  expect_shape(x, "x", {ssize(rows), ssize(work.d)});
  float* const to = x.mutable_data();
  const py::gil_scoped_release released;
  training::embed(kernels.team, work, rows, to);
}

void embed_backward(const TrainingKernels& kernels, const Tables& tables, const Places& places,
                    const std::pair<float, DropoutChoice>& scale_dropout, std::tuple<Floats, Floats> grads) {
  const training::Embed work = make_embed(tables, places, scale_dropout.first, scale_dropout.second);
  auto& [grad_x, grad_table] = grads;
  const std::size_t rows = size_at(std::get<0>(places), 0);
  expect_shape(grad_x, "grad_x", {ssize(rows), ssize(work.d)});
  expect_shape(grad_table, "grad_table", {std::get<0>(tables).shape(0), ssize(work.d)});
  const float* const from = grad_x.data();
  float* const to = grad_table.mutable_data();
  const py::gil_scoped_release released;
  training::embed_backward(kernels.team, work, from, rows, to);
}

template <class T>
void bind_storage(py::class_<TrainingKernels>& kernels) {
  kernels
      .def("add_norm", &add_norm<T>, py::arg("inputs").noconvert(), py::arg("dropout"),
           py::arg("norm").noconvert(), py::arg("outputs").noconvert(),
           "inputs (x, y), norm (gain, bias, epsilon), outputs (sum, out, moments): sum = x + dropout(y), "
           "out its "
           "layer norm. An empty y adds nothing, and sum is empty too.")
      .def("add_norm_backward", &add_norm_backward<T>, py::arg("saved").noconvert(), py::arg("dropout"),
           py::arg("grads").noconvert(), py::arg("outputs").noconvert(),
           "saved (sum, moments, gain), grads (of out, of sum or empty), outputs: gradients of x, y (or "
           "empty), "
           "gain and bias.")
      .def("glu", &glu<T>, py::arg("u").noconvert(), py::arg("y").noconvert(),
           "y (rows, d) = u[:, :d] * sigmoid(u[:, d:]).")
      .def("glu_backward", &glu_backward<T>, py::arg("u").noconvert(), py::arg("grad_y").noconvert(),
           py::arg("grad_u").noconvert(), "The gradient of u.")
      .def("relu_backward", &relu_backward<T>, py::arg("y").noconvert(), py::arg("grad_y").noconvert(),
           py::arg("grad_x").noconvert(), "grad_x = grad_y where y is positive, else zero.")
      .def("add_rows", &add_rows<T>, py::arg("x").noconvert(), py::arg("sums").noconvert(),
           "sums (columns) = the sum of the rows of x.")
      .def("transpose", &transpose<T>, py::arg("x").noconvert(), py::arg("y").noconvert(),
           "y (columns, rows) = x (rows, columns) transposed.")
      .def("loss", &loss<T>, py::arg("scores").noconvert(), py::arg("targets").noconvert(),
           py::arg("smoothing"), py::arg("weight"),
           "scores (rows, vocabulary) become the gradient of `weight` times the label-smoothed loss; a "
           "target below "
           "0 counts for nothing. Returns the sums of the smoothed loss and of the negative log-likelihood.");
}

}  // namespace

void bind_training_rows(py::class_<TrainingKernels>& kernels) {
  bind_storage<float>(kernels);
  bind_storage<training::Bfloat>(kernels);
  kernels
      .def("embed", &embed, py::arg("tables").noconvert(), py::arg("places").noconvert(),
           py::arg("scale_dropout"), py::arg("x").noconvert(),
           "x (rows, d) = dropout(table[ids] * scale + positions[places]).")
      .def("embed_backward", &embed_backward, py::arg("tables").noconvert(), py::arg("places").noconvert(),
           py::arg("scale_dropout"), py::arg("grads").noconvert(),
           "grads (of x, of the table): the second is added to.");
}

}  // namespace kserve
