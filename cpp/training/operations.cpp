#include "training/operations.h"

#include <algorithm>
#include <new>

#include "engine/parallel.h"

namespace kserve::training {
namespace {

// Cuts 0 ... count - 1 into one range per thread, each a multiple of `unit` long but for the last, and calls
// body(number of the range, range).
template <class Body>
void for_each_range(const Team& team, std::size_t count, std::size_t unit, const Body& body) {
  const std::size_t units = (count + unit - 1) / unit;
  const std::size_t ranges = std::max<std::size_t>(1, std::min(team.threads, units));
  parallel_for(ranges, ranges, [&](std::size_t i) {
    body(i, Range{units * i / ranges * unit, std::min(count, units * (i + 1) / ranges * unit)});
  });
}

// Sentences differ in length: more ranges than threads, taken as threads come free. No sum crosses sentences.
template <class Body>
void for_each_sentences(const Team& team, std::size_t count, const Body& body) {
  const std::size_t pieces = std::min(count, team.threads > 1 ? 8 * team.threads : 1);
  parallel_for(pieces, team.threads,
               [&](std::size_t i) { body(Range{count * i / pieces, count * (i + 1) / pieces}); });
}

class AlignedFloats {
 public:
  explicit AlignedFloats(std::size_t count)
      : data_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64}))) {}
  ~AlignedFloats() { ::operator delete(data_, std::align_val_t{64}); }
  AlignedFloats(const AlignedFloats&) = delete;
  AlignedFloats& operator=(const AlignedFloats&) = delete;
  float* get() const { return data_; }

 private:
  float* data_;
};

// Calls body(scratch, piece of work) for each; a thread's pieces share one scratch of floats(log_n) for the
// largest.
template <class Work, class Floats, class Body>
void for_each_growth(const Team& team, const std::vector<Work>& work, Floats floats, const Body& body) {
  for_each_range(team, work.size(), 1, [&](std::size_t, Range range) {
    std::size_t most = 0;
    for (std::size_t i = range.first; i < range.last; ++i) most = std::max(most, floats(work[i]));
    const AlignedFloats scratch(most);
    for (std::size_t i = range.first; i < range.last; ++i) body(scratch.get(), work[i]);
  });
}

std::size_t longest(const std::int32_t* offsets, Range sentences) {
  std::size_t most = 0;
  for (std::size_t i = sentences.first; i < sentences.last; ++i) {
    most = std::max(most, static_cast<std::size_t>(offsets[i + 1] - offsets[i]));
  }
  return most;
}

}  // namespace

template <class T>
void add_norm(const Team& team, const AddNorm<T>& work, std::size_t rows) {
  for_each_range(team, rows, 1, [&](std::size_t, Range range) { team.table.of<T>().add_norm(work, range); });
}

template <class T>
void add_norm_backward(const Team& team, const AddNormBackward<T>& work, std::size_t rows, float* grad_gain,
                       float* grad_bias) {
  const std::size_t d = work.d;
  std::vector<float> sums(2 * d * std::max<std::size_t>(1, team.threads), 0.0F);
  for_each_range(team, rows, 1, [&](std::size_t i, Range range) {
    float* const own = sums.data() + 2 * d * i;
    team.table.of<T>().add_norm_backward(work, range, own, own + d);
  });
  for (std::size_t i = 2 * d; i < sums.size(); ++i) sums[i % (2 * d)] += sums[i];
  std::copy_n(sums.data(), d, grad_gain);
  std::copy_n(sums.data() + d, d, grad_bias);
}

template <class T>
void glu(const Team& team, const T* u, std::size_t d, std::size_t rows, T* y) {
  for_each_range(team, rows, 1, [&](std::size_t, Range range) { team.table.of<T>().glu(u, d, range, y); });
}

template <class T>
void glu_backward(const Team& team, const T* u, const T* grad_y, std::size_t d, std::size_t rows, T* grad_u) {
  for_each_range(team, rows, 1, [&](std::size_t, Range range) {
    team.table.of<T>().glu_backward(u, grad_y, d, range, grad_u);
  });
}

template <class T>
void relu_backward(const Team& team, const T* y, const T* grad_y, std::size_t numbers, T* grad_x) {
  for_each_range(team, numbers, 1024, [&](std::size_t, Range range) {
    team.table.of<T>().relu_backward(y, grad_y, range, grad_x);
  });
}

template <class T>
void add_rows(const Team& team, const T* x, std::size_t rows, std::size_t columns, float* sums) {
  for_each_range(team, columns, 64, [&](std::size_t, Range range) {
    team.table.of<T>().add_rows(x, rows, columns, range, sums);
  });
}

template <class T>
void transpose(const Team& team, const T* x, Sizes sizes, T* y) {
  for_each_range(team, sizes.columns, 64,
                 [&](std::size_t, Range range) { team.table.of<T>().transpose(x, sizes, range, y); });
}

void embed(const Team& team, const Embed& work, std::size_t rows, float* x) {
  for_each_range(team, rows, 1, [&](std::size_t, Range range) { team.table.embed(work, range, x); });
}

void embed_backward(const Team& team, const Embed& work, const float* grad_x, std::size_t rows,
                    float* grad_table) {
  for_each_range(team, work.d, 16, [&](std::size_t, Range range) {
    team.table.embed_backward(work, grad_x, rows, range, grad_table);
  });
}

template <class T>
void convolution(const Team& team, const Convolution<T>& work, std::size_t sentences) {
  for_each_sentences(team, sentences, [&](Range range) { team.table.of<T>().convolution(work, range); });
}

template <class T>
void convolution_backward(const Team& team, const ConvolutionBackward<T>& work, std::size_t sentences) {
  for_each_sentences(team, sentences,
                     [&](Range range) { team.table.of<T>().convolution_backward(work, range); });
}

template <class T>
void attention(const Team& team, const Attention<T>& work, std::size_t sentences) {
  for_each_sentences(team, sentences, [&](Range range) { team.table.of<T>().attention(work, range); });
}

template <class T>
void attention_backward(const Team& team, const AttentionBackward<T>& work, std::size_t sentences) {
  for_each_sentences(team, sentences, [&](Range range) {
    const AlignedFloats scratch(longest(work.forward.targets, range) * longest(work.forward.sources, range) +
                                1);
    team.table.of<T>().attention_backward(work, range, scratch.get());
  });
}

template <class T>
void loss(const Team& team, const Loss<T>& work, std::size_t rows, double (&totals)[2]) {
  std::vector<double> sums(2 * std::max<std::size_t>(1, team.threads), 0.0);
  for_each_range(team, rows, 1, [&](std::size_t i, Range range) {
    team.table.of<T>().loss(work, range, sums.data() + 2 * i);
  });
  totals[0] = totals[1] = 0.0;
  for (std::size_t i = 0; i < sums.size(); ++i) totals[i % 2] += sums[i];
}

template <class T>
void grow(const Team& team, const std::vector<Growth<T>>& work) {
  for_each_growth(
      team, work, [](const Growth<T>& piece) { return growth_scratch(piece.log_n); },
      [&](float* scratch, const Growth<T>& piece) { team.table.of<T>().grow(piece, scratch); });
}

template <class T>
void grow_backward(const Team& team, const std::vector<GrowthBackward<T>>& work) {
  for_each_growth(
      team, work, [](const GrowthBackward<T>& piece) { return growth_backward_scratch(piece.forward.log_n); },
      [&](float* scratch, const GrowthBackward<T>& piece) {
        team.table.of<T>().grow_backward(piece, scratch);
      });
}

#define KSERVE_INSTANTIATE(T)                                                                           \
  template void add_norm(const Team&, const AddNorm<T>&, std::size_t);                                  \
  template void add_norm_backward(const Team&, const AddNormBackward<T>&, std::size_t, float*, float*); \
  template void glu(const Team&, const T*, std::size_t, std::size_t, T*);                               \
  template void glu_backward(const Team&, const T*, const T*, std::size_t, std::size_t, T*);            \
  template void relu_backward(const Team&, const T*, const T*, std::size_t, T*);                        \
  template void add_rows(const Team&, const T*, std::size_t, std::size_t, float*);                      \
  template void transpose(const Team&, const T*, Sizes, T*);                                            \
  template void convolution(const Team&, const Convolution<T>&, std::size_t);                           \
  template void convolution_backward(const Team&, const ConvolutionBackward<T>&, std::size_t);          \
  template void attention(const Team&, const Attention<T>&, std::size_t);                               \
  template void attention_backward(const Team&, const AttentionBackward<T>&, std::size_t);              \
  template void loss(const Team&, const Loss<T>&, std::size_t, double (&)[2]);                          \
  template void grow(const Team&, const std::vector<Growth<T>>&);                                       \
  template void grow_backward(const Team&, const std::vector<GrowthBackward<T>>&)

KSERVE_INSTANTIATE(float);
KSERVE_INSTANTIATE(Bfloat);
#undef KSERVE_INSTANTIATE

}  // namespace kserve::training
