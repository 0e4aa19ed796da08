// What is done row by row between the matrix products: residual and layer norm, gates, embedding, column
// sums.
#pragma once

#include <math.h>

#include <type_traits>

#include "kernels/softmax-inl.h"
#include "training/storage-inl.h"

namespace kserve::training {
namespace {

// Mean and 1 / standard deviation of a row (d); mean first, so that nothing cancels.
void measure_row(const float* x, std::size_t d, float epsilon, float* moments) {
  Vec sum = Vec::zero(), squares = Vec::zero();
  each_vector(d, [&](Lanes at) { sum = sum + at.of(x); });
  moments[0] = sum.sum() / static_cast<float>(d);
  const Vec mean = Vec::broadcast(moments[0]);
  each_vector(d, [&](Lanes at) {
    const Vec centred = at.masked(at.of(x) - mean);
    squares = Vec::fma(centred, centred, squares);
  });
  moments[1] = 1.0F / ::sqrtf(squares.sum() / static_cast<float>(d) + epsilon);
}

template <class T>
void add_norm(const AddNorm<T>& a, Range rows) {
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    const std::size_t start = row * a.d;
    const float* x = a.x + start;
    if (a.y != nullptr) {
      float* sum = a.sum + start;
      each_vector(
          a.d, [&](Lanes at) { at.put(at.of(x) + drop(a.dropout, start + at.i, at.of(a.y + start)), sum); });
      x = sum;
    }
    float* moments = a.moments + 2 * row;
    measure_row(x, a.d, a.epsilon, moments);
    const Vec mean = Vec::broadcast(moments[0]), scale = Vec::broadcast(moments[1]);
    each_vector(a.d, [&](Lanes at) {
      at.put(Vec::fma((at.of(x) - mean) * scale, at.of(a.gain), at.of(a.bias)), a.out + start);
    });
  }
}

// With u = (x - mean) * scale and a = grad_out * gain:  grad_x = scale * (a - mean(a) - u * mean(a * u)).
template <class T>
void add_norm_backward(const AddNormBackward<T>& a, Range rows, float* grad_gain, float* grad_bias) {
  const float share = 1.0F / static_cast<float>(a.d);
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    const std::size_t start = row * a.d;
    const Vec mean = Vec::broadcast(a.moments[2 * row]), scale = Vec::broadcast(a.moments[2 * row + 1]);
    Vec sum_a = Vec::zero(), sum_au = Vec::zero();
    each_vector(a.d, [&](Lanes at) {
      const Vec grad = at.of(a.grad_out + start), unit = (at.of(a.sum + start) - mean) * scale;
      const Vec product = grad * unit;
      at.put(at.of(grad_gain) + product, grad_gain);
      at.put(at.of(grad_bias) + grad, grad_bias);
      sum_a = Vec::fma(grad, at.of(a.gain), sum_a);
      sum_au = Vec::fma(product, at.of(a.gain), sum_au);
    });
    const Vec mean_a = Vec::broadcast(sum_a.sum() * share), mean_au = Vec::broadcast(sum_au.sum() * share);
    each_vector(a.d, [&](Lanes at) {
      const Vec unit = (at.of(a.sum + start) - mean) * scale;
      const Vec centred = at.of(a.grad_out + start) * at.of(a.gain) - mean_a - unit * mean_au;
      Vec grad = centred * scale;
      if (a.grad_sum != nullptr) grad = grad + at.of(a.grad_sum + start);
      at.put(grad, a.grad_x + start);
      if (a.grad_y != nullptr) at.put(drop(a.dropout, start + at.i, grad), a.grad_y + start);
    });
  }
}

KSERVE_INLINE Vec sigmoid(Vec x) {
  const Vec one = Vec::broadcast(1.0F);
  return one / (one + kernels::exponential(Vec::zero() - x));
}

template <class T>
void glu(const T* u, std::size_t d, Range rows, T* y) {
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    const T* const input = u + row * 2 * d;
    if constexpr (std::is_same_v<T, float>) {
      kernels::glu(input, d, y + row * d);
    } else {
      each_vector(d, [&](Lanes at) { at.put(kernels::gated(at.of(input), at.of(input + d)), y + row * d); });
    }
  }
}

template <class T>
void glu_backward(const T* u, const T* grad_y, std::size_t d, Range rows, T* grad_u) {
  const Vec one = Vec::broadcast(1.0F);
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    const T* const input = u + row * 2 * d;
    T* const grad = grad_u + row * 2 * d;
    each_vector(d, [&](Lanes at) {
      const Vec gate = sigmoid(at.of(input + d)), upper = at.of(grad_y + row * d) * gate;
      at.put(upper, grad);
      at.put(upper * at.of(input) * (one - gate), grad + d);
    });
  }
}

template <class T>
void relu_backward(const T* y, const T* grad_y, Range range, T* grad_x) {
  constexpr float kLeast = 0x1p-126F;  // the smallest normal number
  each_vector(range.last - range.first, [&](Lanes at) {
    const Vec grad = at.of(grad_y + range.first), output = at.of(y + range.first);
    at.put(Vec::of([&](std::size_t i) { return Reg::zero_below(output.r[i], kLeast, grad.r[i]); }),
           grad_x + range.first);
  });
}

// Four vectors of columns at once: whole cache lines, and four independent chains of additions.
template <class T>
void add_rows(const T* x, std::size_t rows, std::size_t columns, Range range, float* sums) {
  std::size_t i = range.first;
  for (; i + 4 * kLanes <= range.last; i += 4 * kLanes) {
    Vec sum[4] = {Vec::zero(), Vec::zero(), Vec::zero(), Vec::zero()};
    for (std::size_t row = 0; row < rows; ++row) {
      KSERVE_UNROLL
      for (std::size_t v = 0; v < 4; ++v) sum[v] = sum[v] + load(x + row * columns + i + v * kLanes);
    }
    KSERVE_UNROLL
    for (std::size_t v = 0; v < 4; ++v) sum[v].store(sums + i + v * kLanes);
  }
  each_vector(range.last - i, [&](Lanes at) {
    Vec sum = Vec::zero();
    for (std::size_t row = 0; row < rows; ++row) sum = sum + at.of(x + row * columns + i);
    at.put(sum, sums + i);
  });
}

constexpr std::size_t kColumnsAtOnce = 64;  // more places to write to at a time cost more than they save

// What does not fill a square of registers: rows first ... rows - 1 of the columns `range`.
template <class T>
void transpose_rest(const T* x, Sizes sizes, std::size_t first, Range range, T* y) {
  for (std::size_t j = range.first; j < range.last; ++j) {
    for (std::size_t i = first; i < sizes.rows; ++i) y[j * sizes.rows + i] = x[i * sizes.columns + j];
  }
}

// The square of registers with row i and column j in its corner. bfloat16 goes through float's registers:
// exact.
template <class T>
KSERVE_INLINE void transpose_square(const T* x, Sizes sizes, std::size_t i, std::size_t j, T* y) {
  Reg square[Reg::kWidth];
  KSERVE_UNROLL
  for (std::size_t e = 0; e < Reg::kWidth; ++e) square[e] = load_register(x + (i + e) * sizes.columns + j);
  Reg::transpose(square);
  KSERVE_UNROLL
  for (std::size_t e = 0; e < Reg::kWidth; ++e) store_register(square[e], y + (j + e) * sizes.rows + i);
}

// One strip of columns, `rows` of them, whole squares. Squares that share cache lines of y follow each other.
template <class T>
void transpose_strip(const T* x, Sizes sizes, Range range, std::size_t rows, T* y) {
  constexpr std::size_t kWidth = Reg::kWidth, kLine = 64 / sizeof(T);
  for (std::size_t line = 0; line < rows; line += kLine) {
    const std::size_t end = line + kLine < rows ? line + kLine : rows;
    for (std::size_t j = range.first; j < range.last; j += kWidth) {
      for (std::size_t i = line; i < end; i += kWidth) transpose_square(x, sizes, i, j, y);
    }
  }
}

template <class T>
void transpose_columns(const T* x, Sizes sizes, Range range, T* y) {
  constexpr std::size_t kWidth = Reg::kWidth;
  const std::size_t whole_rows = sizes.rows / kWidth * kWidth;
  std::size_t j = range.first;
  while (j + kWidth <= range.last) {
    const std::size_t left = (range.last - j) / kWidth * kWidth;
    const Range strip = {j, j + (left < kColumnsAtOnce ? left : kColumnsAtOnce)};
    transpose_strip(x, sizes, strip, whole_rows, y);
    transpose_rest(x, sizes, whole_rows, strip, y);
    j = strip.last;
  }
  transpose_rest(x, sizes, 0, Range{j, range.last}, y);
}

void embed(const Embed& a, Range rows, float* x) {
  const Vec scale = Vec::broadcast(a.scale);
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    const float* const entry = a.table + static_cast<std::size_t>(a.ids[row]) * a.d;
    const float* const position = a.positions + static_cast<std::size_t>(a.places[row]) * a.d;
    each_vector(a.d, [&](Lanes at) {
      const Vec sum = Vec::fma(at.of(entry), scale, at.of(position));
      at.put(drop(a.dropout, row * a.d + at.i, sum), x + row * a.d);
    });
  }
}

void embed_backward(const Embed& a, const float* grad_x, std::size_t rows, Range channels,
                    float* grad_table) {
  const Vec scale = Vec::broadcast(a.scale);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t from = row * a.d + channels.first;
    float* const entry = grad_table + static_cast<std::size_t>(a.ids[row]) * a.d + channels.first;
    each_vector(channels.last - channels.first, [&](Lanes at) {
      const Vec grad = drop(a.dropout, from + at.i, at.of(grad_x + from));
      at.put(Vec::fma(grad, scale, at.of(entry)), entry);
    });
  }
}

}  // namespace
}  // namespace kserve::training
