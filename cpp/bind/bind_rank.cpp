// The output layer of kserve._engine.kernels: a vocabulary, and its ranking by the kernels of an instruction
// set. For tests and benchmarks.
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "bind/arrays.h"
#include "bind/module.h"
#include "kernels/dispatch.h"

namespace kserve {
namespace {

using kernels::KernelTable;
using Ids = py::array_t<std::int32_t, py::array::c_style>;

// A vocabulary and the arrays that it points into.
class HeldVocabulary {
 public:
  HeldVocabulary(Bytes rows, Bytes panels, const Floats& scale)
      : rows_(std::move(rows)), panels_(std::move(panels)) {
    expect_shape(rows_, "rows", {-1, -1});
    const std::size_t size = size_at(rows_, 0), outputs = kernels::panels_of(size) * kernels::kLanes;
    expect_shape(panels_, "panels",
                 {ssize(kernels::panels_of(size)), ssize(kernels::byte_groups(size_at(rows_, 1))),
                  ssize(kernels::kLanes), ssize(kernels::kBytesPerLane)});
    expect_shape(scale, "scale", {rows_.shape(0)});
    scale_.assign(outputs, 0.0F);
    std::copy_n(scale.data(), size, scale_.data());
    reach_.resize(outputs);
    offset_.resize(outputs);
    kernels::measure_vocabulary(get(), reach_.data(), offset_.data());
  }

  kernels::Vocabulary get() const {
    return {size_at(rows_, 0), size_at(rows_, 1), panels_.data(), scale_.data(),
            reach_.data(),     offset_.data(),    rows_.data(),   nullptr};
  }

 private:
  Bytes rows_, panels_;
  std::vector<float> scale_, reach_;
  std::vector<std::int32_t> offset_;
};

// What to ask about every row, and room for the answers.
struct Answers {
  Answers(std::size_t rows, std::size_t count, const std::vector<std::int32_t>& barred)
      : ids({ssize(rows), ssize(count)}), logits({ssize(rows), ssize(count)}), log_sum_exp(ssize(rows)) {
    ranking = {count,
               barred.data(),
               barred.size(),
               ids.mutable_data(),
               logits.mutable_data(),
               log_sum_exp.mutable_data()};
  }

  Ids ids;
  Floats logits, log_sum_exp;
  kernels::Ranking ranking;
};

std::tuple<Ids, Floats, Floats> rank_tokens(const KernelTable& table, const HeldVocabulary& held,
                                            const Floats& h, std::size_t count,
                                            const std::vector<std::int32_t>& barred) {
  const kernels::Vocabulary vocabulary = held.get();
  expect_shape(h, "h", {-1, ssize(vocabulary.n)});
  if (count > kernels::kMostRanked) {
    throw std::invalid_argument("count is " + std::to_string(count) + ", expected at most " +
                                std::to_string(kernels::kMostRanked));
  }
  const std::size_t rows = size_at(h, 0);
  Answers answers(rows, count, barred);
  const float* const from = h.data();
  {
    const py::gil_scoped_release released;
    const Scratch scratch(kernels::rank_memory(vocabulary.n, rows, count).bytes / sizeof(float));
    table.rank_tokens(vocabulary, from, rows, answers.ranking, scratch.data());
  }
  return {answers.ids, answers.logits, answers.log_sum_exp};
}

Floats token_logits(const KernelTable& table, const HeldVocabulary& held, const Floats& h) {
  const kernels::Vocabulary vocabulary = held.get();
  expect_shape(h, "h", {-1, ssize(vocabulary.n)});
  const std::size_t rows = size_at(h, 0);
  Floats logits({ssize(rows), ssize(vocabulary.size)});
  const float* const from = h.data();
  float* const to = logits.mutable_data();
  const py::gil_scoped_release released;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t token = 0; token < vocabulary.size; ++token) {
      to[row * vocabulary.size + token] = table.token_logit(vocabulary, token, from + row * vocabulary.n);
    }
  }
  return logits;
}

}  // namespace

void bind_rank(py::module_& module) {
  auto kernels_module = module.attr("kernels").cast<py::module_>();
  py::class_<HeldVocabulary>(kernels_module, "Vocabulary",
                             "The output layer: an int8 table by rows (tokens, n), the same in panels "
                             "(panels, groups, 16, 4), and a scale per token.")
      .def(py::init<Bytes, Bytes, const Floats&>(), py::arg("rows").noconvert(),
           py::arg("panels").noconvert(), py::arg("scale").noconvert());
  auto table = kernels_module.attr("Kernels").cast<py::class_<KernelTable>>();
  table.def("rank_tokens", &rank_tokens, py::arg("vocabulary"), py::arg("h").noconvert(), py::arg("count"),
            py::arg("barred") = std::vector<std::int32_t>{},
            "Best ids (-1: none left) and their logits, both (rows, count), and the log-sum-exp (rows).");
  table.def("token_logits", &token_logits, py::arg("vocabulary"), py::arg("h").noconvert(),
            "The exact logits (rows, tokens), one by one.");
}

}  // namespace kserve
