// What the bindings of training share: the kernels with a number of threads, and arrays of float or bfloat16.
#pragma once

#include <cmath>
#include <string>
#include <tuple>

#include "bind/arrays.h"
#include "training/operations.h"

namespace kserve {

template <class T>
using Array = py::array_t<T, py::array::c_style>;
using Bfloats = Array<training::Bfloat>;
using Ids = Array<std::int32_t>;
using Offsets = Array<std::int64_t>;

// kserve._engine.training.Kernels: an instruction set and a number of threads.
struct TrainingKernels {
  TrainingKernels(const std::string& isa, std::size_t wanted)
      : team{training::choose(isa.c_str()), wanted == 0 ? 1 : wanted} {}
  training::Team team;
};

// Seed and probability of a zero.
using DropoutChoice = std::pair<std::uint32_t, double>;

inline training::Dropout make_dropout(const DropoutChoice& choice) {
  if (!(choice.second >= 0.0 && choice.second < 1.0)) {
    throw std::invalid_argument("dropout probability " + std::to_string(choice.second) + " is not in [0, 1)");
  }
  return {choice.first, static_cast<std::uint32_t>(choice.second * 0x1p32),
          static_cast<float>(1.0 / (1.0 - choice.second))};
}

// Offsets (sentences + 1) must begin at 0 or above, never fall, and stay within `rows`.
inline std::size_t checked_sentences(const Ids& offsets, const std::string& name, std::size_t rows) {
  expect_shape(offsets, name, {-1});
  if (offsets.size() == 0) throw std::invalid_argument(name + " is empty, expected sentences + 1 numbers");
  const std::int32_t* at = offsets.data();
  const std::size_t count = static_cast<std::size_t>(offsets.size()) - 1;
  bool valid = at[0] == 0 && static_cast<std::size_t>(at[count]) <= rows;
  for (std::size_t i = 0; i < count; ++i) valid = valid && at[i] <= at[i + 1];
  if (!valid) {
    throw std::invalid_argument(name + " must start at 0, never fall and end within " + std::to_string(rows) +
                                " rows");
  }
  return count;
}

void bind_training_rows(py::class_<TrainingKernels>& kernels);
void bind_training_sentences(py::class_<TrainingKernels>& kernels);
void bind_training_growth(py::class_<TrainingKernels>& kernels);

}  // namespace kserve
