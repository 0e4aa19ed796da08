// kserve._engine.training.Kernels: K-matrices multiplied out.
#include <pybind11/stl.h>

#include "bind/training_arrays.h"

namespace kserve {
namespace {

// Twiddles (stacks, 2 * width, log2 n, n / 2, 2, 2) of one layer, and how its squares lie in a matrix.
struct Squares {
  std::size_t stacks, width, log_n, tile, grid_columns;

  std::size_t n() const { return std::size_t{1} << log_n; }
  std::size_t block() const { return 2 * n() * log_n; }  // numbers of one butterfly
};

// With a tile, the matrix is (out, in) and each stack a tile of it. Without one (0) it is every pair of every
// stack whole, (stacks * width * n, n).
Squares check_squares(const Floats& twiddle, const py::array& matrix, std::size_t tile) {
  if (twiddle.ndim() != 6 || matrix.ndim() != 2 || twiddle.shape(1) % 2 != 0 || twiddle.shape(2) > 20) {
    throw std::invalid_argument(
        "expected a twiddle (stacks, 2 * width, log2 n, n / 2, 2, 2) with n up to 2^20 and a matrix of two "
        "dimensions");
  }
  Squares squares = {size_at(twiddle, 0), size_at(twiddle, 1) / 2, size_at(twiddle, 2), tile, 1};
  const std::size_t out = static_cast<std::size_t>(matrix.shape(0)),
                    in = static_cast<std::size_t>(matrix.shape(1));
  std::size_t stacks = squares.stacks;
  if (tile > 0) {
    squares.grid_columns = (in + tile - 1) / tile;
    stacks = (out + tile - 1) / tile * squares.grid_columns;
  } else {
    expect_shape(matrix, "matrix", {ssize(squares.stacks * squares.width * squares.n()), ssize(squares.n())});
  }
  if (squares.log_n == 0 || size_at(twiddle, 3) * 2 != squares.n() || squares.stacks != stacks ||
      tile > squares.n() || (tile > 0 && squares.width != 1)) {
    throw std::invalid_argument("twiddle of " + std::to_string(squares.stacks) + " stacks of size " +
                                std::to_string(squares.n()) + " and width " + std::to_string(squares.width) +
                                " does not make a matrix of " + std::to_string(out) + " x " +
                                std::to_string(in) + " in tiles of " + std::to_string(tile));
  }
  return squares;
}

// Calls body(place of the first of a pair's two butterflies in the twiddle, growth but for its numbers'
// places, place in the matrix) for each pair.
template <class T, class Body>
void for_each_pair(const Squares& squares, const py::array& matrix, Body body) {
  const std::size_t out = static_cast<std::size_t>(matrix.shape(0)),
                    in = static_cast<std::size_t>(matrix.shape(1));
  for (std::size_t pair = 0; pair < squares.stacks * squares.width; ++pair) {
    training::Growth<T> growth = {squares.log_n, squares.n(), squares.n(), nullptr, nullptr, nullptr, in};
    std::size_t place = pair * squares.n() * squares.n();
    if (squares.tile > 0) {
      const std::size_t row = pair / squares.grid_columns * squares.tile,
                        column = pair % squares.grid_columns * squares.tile;
      growth.rows = std::min(squares.tile, out - row);
      growth.columns = std::min(squares.tile, in - column);
      place = row * in + column;
    }
    body(2 * pair * squares.block(), growth, place);
  }
}

template <class T>
void grow(const TrainingKernels& kernels, const std::vector<Floats>& twiddles, std::vector<Array<T>> matrices,
          const std::vector<std::size_t>& tiles) {
  if (matrices.size() != twiddles.size() || tiles.size() != twiddles.size()) {
    throw std::invalid_argument("twiddles, matrices and tiles must be equally many");
  }
  std::vector<training::Growth<T>> work;
  for (std::size_t i = 0; i < twiddles.size(); ++i) {
    const Squares squares = check_squares(twiddles[i], matrices[i], tiles[i]);
    T* const matrix = matrices[i].mutable_data();
    for_each_pair<T>(squares, matrices[i],
                     [&](std::size_t first, training::Growth<T> growth, std::size_t place) {
                       growth.inner = twiddles[i].data() + first;
                       growth.outer = growth.inner + squares.block();
                       growth.matrix = matrix + place;
                       work.push_back(growth);
                     });
  }
  const py::gil_scoped_release released;
  training::grow(kernels.team, work);
}

template <class T>
void grow_backward(const TrainingKernels& kernels, const std::vector<Floats>& twiddles,
                   const std::vector<Array<T>>& grad_matrices, const std::vector<std::size_t>& tiles,
                   std::vector<Floats> grad_twiddles) {
  if (grad_matrices.size() != twiddles.size() || tiles.size() != twiddles.size() ||
      grad_twiddles.size() != twiddles.size()) {
    throw std::invalid_argument("twiddles, matrices, tiles and gradients must be equally many");
  }
  std::vector<training::GrowthBackward<T>> work;
  for (std::size_t i = 0; i < twiddles.size(); ++i) {
    const Squares squares = check_squares(twiddles[i], grad_matrices[i], tiles[i]);
    if (grad_twiddles[i].size() != twiddles[i].size())
      throw std::invalid_argument("gradient of another size");
    const T* const matrix = grad_matrices[i].data();
    float* const grads = grad_twiddles[i].mutable_data();
    for_each_pair<const T>(squares, grad_matrices[i],
                           [&](std::size_t first, training::Growth<const T> growth, std::size_t place) {
                             growth.inner = twiddles[i].data() + first;
                             growth.outer = growth.inner + squares.block();
                             growth.matrix = matrix + place;
                             work.push_back({growth, grads + first + squares.block(), grads + first});
                           });
  }
  const py::gil_scoped_release released;
  training::grow_backward(kernels.team, work);
}

template <class T>
void bind_storage(py::class_<TrainingKernels>& kernels) {
  kernels
      .def("grow", &grow<T>, py::arg("twiddles").noconvert(), py::arg("matrices").noconvert(),
           py::arg("tiles"),
           "Multiplies K-matrices of width 1 out, into the layers' matrices (out, in) in tiles; with tile 0 "
           "every pair "
           "of any width by itself, (stacks * width * n, n).")
      .def("grow_backward", &grow_backward<T>, py::arg("twiddles").noconvert(),
           py::arg("grad_matrices").noconvert(), py::arg("tiles"), py::arg("grad_twiddles").noconvert(),
           "The twiddles' gradients from those of the matrices.");
}

}  // namespace

void bind_training_growth(py::class_<TrainingKernels>& kernels) {
  bind_storage<float>(kernels);
  bind_storage<training::Bfloat>(kernels);
}

}  // namespace kserve
