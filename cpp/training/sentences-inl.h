// What mixes the rows of a sentence: dynamic convolution and attention, forward and backward. Sentences have
// tens of rows, so every row is read from the nearest cache and plain loops beat batched matrix products.
#pragma once

#include <math.h>

#include "kernels/softmax-inl.h"
#include "training/storage-inl.h"

namespace kserve::training {
namespace {

// `length` rows of one head, `stride` numbers apart, each of `size` channels.
template <class T>
struct HeadRows {
  T* rows;
  std::size_t stride, length, size;
};

// y = sum over j of weights[j * weight_step] * row (first + j * row_step), count terms in their order.
// row_step is 1 or -1.
struct Terms {
  const float* weights;
  std::ptrdiff_t weight_step, row_step;
  std::size_t count;
};

template <std::size_t kVectors, class T, class U>
KSERVE_INLINE void mix_vectors(const HeadRows<const T>& x, std::size_t first, const Terms& terms,
                               std::size_t channel, U* y) {
  Vec sum[kVectors];
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) sum[v] = Vec::zero();
  const T* row = x.rows + first * x.stride + channel;
  const float* weight = terms.weights;
  const std::ptrdiff_t step = terms.row_step * static_cast<std::ptrdiff_t>(x.stride);
  for (std::size_t j = 0; j < terms.count; ++j, row += step, weight += terms.weight_step) {
    const Vec share = Vec::broadcast(*weight);
    KSERVE_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) sum[v] = Vec::fma(share, load(row + v * kLanes), sum[v]);
  }
  KSERVE_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) store(sum[v], y + channel + v * kLanes);
}

template <class T, class U>
KSERVE_INLINE void mix_last(const HeadRows<const T>& x, std::size_t first, const Terms& terms,
                            std::size_t channel, U* y) {
  const std::size_t lanes = x.size - channel;
  Vec sum = Vec::zero();
  const T* row = x.rows + first * x.stride + channel;
  const float* weight = terms.weights;
  const std::ptrdiff_t step = terms.row_step * static_cast<std::ptrdiff_t>(x.stride);
  for (std::size_t j = 0; j < terms.count; ++j, row += step, weight += terms.weight_step) {
    sum = Vec::fma(Vec::broadcast(*weight), load_first(row, lanes), sum);
  }
  store_first(sum, y + channel, lanes);
}

template <class T, class U>
void mix(const HeadRows<const T>& x, std::size_t first, const Terms& terms, U* y) {
  std::size_t channel = 0;
  for (; channel + 4 * kLanes <= x.size; channel += 4 * kLanes) mix_vectors<4>(x, first, terms, channel, y);
  for (; channel + kLanes <= x.size; channel += kLanes) mix_vectors<1>(x, first, terms, channel, y);
  if (channel < x.size) mix_last(x, first, terms, channel, y);
}

template <std::size_t kCount, class T>
KSERVE_INLINE void dot_rows(const HeadRows<const T>& x, std::size_t first, const T* with, float* dots) {
  const T* const rows = x.rows + first * x.stride;
  Vec sum[kCount];
  KSERVE_UNROLL
  for (std::size_t k = 0; k < kCount; ++k) sum[k] = Vec::zero();
  each_vector(x.size, [&](Lanes at) {
    const Vec factor = at.of(with);
    KSERVE_UNROLL
    for (std::size_t k = 0; k < kCount; ++k) sum[k] = Vec::fma(factor, at.of(rows + k * x.stride), sum[k]);
  });
  if constexpr (kCount == 4) {
    Vec::four_sums(sum, dots);
  } else {
    dots[0] = sum[0].sum();
  }
}

// dots[j] = `with` (size) times row first + j, j in 0 ... count - 1.
template <class T>
void dot(const HeadRows<const T>& x, std::size_t first, std::size_t count, const T* with, float* dots) {
  std::size_t j = 0;
  for (; j + 4 <= count; j += 4) dot_rows<4>(x, first + j, with, dots + j);
  for (; j < count; ++j) dot_rows<1>(x, first + j, with, dots + j);
}

// In place: grads of shares become those of the scores whose softmax the shares are.
void softmax_backward(const float* shares, std::size_t n, float scale, float* grads) {
  Vec sum = Vec::zero();
  each_vector(n, [&](Lanes at) { sum = Vec::fma(at.of(shares), at.of(grads), sum); });
  const Vec total = Vec::broadcast(sum.sum()), factor = Vec::broadcast(scale);
  each_vector(n, [&](Lanes at) { at.put(at.of(shares) * (at.of(grads) - total) * factor, grads); });
}

// The taps that reach inside a sentence of `length` rows from row t: first ... last - 1.
KSERVE_INLINE Range taps_inside(std::size_t t, std::size_t length, std::size_t taps, std::size_t left) {
  const std::size_t last = length + left - t;
  return {left > t ? left - t : 0, last < taps ? last : taps};
}

// Softmax of each group of `taps` numbers of x (groups * taps). Few taps fill no vector: one exponential over
// all groups then costs less than one for each.
void softmax_groups(std::size_t groups, std::size_t taps, float* x) {
  if (taps >= kLanes) {
    for (std::size_t g = 0; g < groups; ++g) {
      kernels::softmax_row(x + g * taps, taps, 1.0F, x + g * taps);
    }
    return;
  }
  for (std::size_t g = 0; g < groups; ++g) {
    float* const own = x + g * taps;
    float top = own[0];
    for (std::size_t j = 1; j < taps; ++j) top = own[j] > top ? own[j] : top;
    for (std::size_t j = 0; j < taps; ++j) own[j] -= top;
  }
  each_vector(groups * taps, [&](Lanes at) { at.put(kernels::exponential(at.of(x)), x); });
  for (std::size_t g = 0; g < groups; ++g) {
    float* const own = x + g * taps;
    float sum = own[0];
    for (std::size_t j = 1; j < taps; ++j) sum += own[j];
    const float share = 1.0F / sum;
    for (std::size_t j = 0; j < taps; ++j) own[j] *= share;
  }
}

template <class T>
void convolve_sentence(const Convolution<T>& a, std::size_t start, std::size_t length) {
  const std::size_t size = a.d / a.heads, width = a.heads * a.taps;
  for (std::size_t t = 0; t < length; ++t) {
    float* const shares = a.shares + (start + t) * width;
    each_vector(width, [&](Lanes at) { at.put(at.of(a.scores + (start + t) * width), shares); });
    softmax_groups(a.heads, a.taps, shares);
    const Range inside = taps_inside(t, length, a.taps, a.left);
    for (std::size_t h = 0; h < a.heads; ++h) {
      const HeadRows<const T> x = {a.x + start * a.d + h * size, a.d, length, size};
      const Terms terms = {shares + h * a.taps + inside.first, 1, 1, inside.last - inside.first};
      mix(x, t + inside.first - a.left, terms, a.y + (start + t) * a.d + h * size);
    }
  }
}

template <class T>
void convolution(const Convolution<T>& a, Range sentences) {
  for (std::size_t i = sentences.first; i < sentences.last; ++i) {
    const auto start = static_cast<std::size_t>(a.offsets[i]);
    convolve_sentence(a, start, static_cast<std::size_t>(a.offsets[i + 1]) - start);
  }
}

// Gradient of the scores of row t: the taps outside of the sentence have a share, but touch nothing.
template <class T>
void convolution_score_grads(const ConvolutionBackward<T>& a, std::size_t start, std::size_t length,
                             std::size_t t) {
  const std::size_t size = a.d / a.heads, row = start + t;
  const Range inside = taps_inside(t, length, a.taps, a.left);
  float grads[kMostTaps];
  for (std::size_t h = 0; h < a.heads; ++h) {
    const HeadRows<const T> x = {a.x + start * a.d + h * size, a.d, length, size};
    for (std::size_t j = 0; j < a.taps; ++j) grads[j] = 0.0F;
    dot(x, t + inside.first - a.left, inside.last - inside.first, a.grad_y + row * a.d + h * size,
        grads + inside.first);
    const std::size_t at = (row * a.heads + h) * a.taps;
    softmax_backward(a.shares + at, a.taps, 1.0F, grads);
    each_vector(a.taps, [&](Lanes lanes) { lanes.put(lanes.of(grads), a.grad_scores + at); });
  }
}

// Row s is read by rows t = s + left - j for every tap j that leaves t inside the sentence (j = left always
// does).
template <class T>
void convolution_input_grads(const ConvolutionBackward<T>& a, std::size_t start, std::size_t length,
                             std::size_t s) {
  const std::size_t size = a.d / a.heads, width = a.heads * a.taps;
  const std::size_t highest = s + a.left;  // t for tap 0
  const std::size_t first = highest >= length ? highest - length + 1 : 0;
  const std::size_t last = highest + 1 < a.taps ? highest + 1 : a.taps;
  const std::size_t from = highest - first;
  for (std::size_t h = 0; h < a.heads; ++h) {
    const HeadRows<const T> grad = {a.grad_y + start * a.d + h * size, a.d, length, size};
    const float* const weights = a.shares + (start + from) * width + h * a.taps + first;
    const Terms terms = {weights, 1 - static_cast<std::ptrdiff_t>(width), -1, last - first};
    mix(grad, from, terms, a.grad_x + (start + s) * a.d + h * size);
  }
}

template <class T>
void convolution_backward(const ConvolutionBackward<T>& a, Range sentences) {
  for (std::size_t i = sentences.first; i < sentences.last; ++i) {
    const auto start = static_cast<std::size_t>(a.offsets[i]);
    const std::size_t length = static_cast<std::size_t>(a.offsets[i + 1]) - start;
    for (std::size_t t = 0; t < length; ++t) {
      convolution_score_grads(a, start, length, t);
      convolution_input_grads(a, start, length, t);
    }
  }
}

// One head of one pair of sentences.
struct HeadPair {
  std::size_t target_start, source_start, targets, sources, channel, size;
  std::size_t shares;  // place of its numbers in `shares`
};

template <class T, class Body>
KSERVE_INLINE void for_each_head(const Attention<T>& a, Range sentences, Body body) {
  const std::size_t size = a.d / a.heads;
  for (std::size_t i = sentences.first; i < sentences.last; ++i) {
    const auto target = static_cast<std::size_t>(a.targets[i]),
               source = static_cast<std::size_t>(a.sources[i]);
    const std::size_t targets = static_cast<std::size_t>(a.targets[i + 1]) - target;
    const std::size_t sources = static_cast<std::size_t>(a.sources[i + 1]) - source;
    const auto shares = static_cast<std::size_t>(a.share_offsets[i]);
    for (std::size_t h = 0; h < a.heads; ++h) {
      body(HeadPair{target, source, targets, sources, h * size, size, shares + h * targets * sources});
    }
  }
}

// The rows that start at row `start` of x (rows, d), seen from one head.
template <class T>
KSERVE_INLINE HeadRows<const T> head_rows(const T* x, std::size_t d, const HeadPair& pair, std::size_t start,
                                          std::size_t length) {
  return {x + start * d + pair.channel, d, length, pair.size};
}

template <class T>
void attention(const Attention<T>& a, Range sentences) {
  for_each_head(a, sentences, [&](const HeadPair& pair) {
    const float scale = 1.0F / ::sqrtf(static_cast<float>(pair.size));
    const auto keys = head_rows(a.key, a.d, pair, pair.source_start, pair.sources);
    const auto values = head_rows(a.value, a.d, pair, pair.source_start, pair.sources);
    for (std::size_t t = 0; t < pair.targets; ++t) {
      const std::size_t at = (pair.target_start + t) * a.d + pair.channel;
      float* const shares = a.shares + pair.shares + t * pair.sources;
      dot(keys, 0, pair.sources, a.query + at, shares);
      kernels::softmax_row(shares, pair.sources, scale, shares);
      mix(values, 0, Terms{shares, 1, 1, pair.sources}, a.y + at);
    }
  });
}

// The shares of a head become the gradients of its scores, once the values' gradients have been taken from
// them.
template <class T>
void attention_head_backward(const AttentionBackward<T>& a, const HeadPair& pair, float* grads) {
  const Attention<T>& f = a.forward;
  const float scale = 1.0F / ::sqrtf(static_cast<float>(pair.size));
  const auto grad_y = head_rows(a.grad_y, f.d, pair, pair.target_start, pair.targets);
  const auto queries = head_rows(f.query, f.d, pair, pair.target_start, pair.targets);
  const auto keys = head_rows(f.key, f.d, pair, pair.source_start, pair.sources);
  const auto values = head_rows(f.value, f.d, pair, pair.source_start, pair.sources);
  const float* const shares = f.shares + pair.shares;
  const auto step = static_cast<std::ptrdiff_t>(pair.sources);
  for (std::size_t t = 0; t < pair.targets; ++t) {
    const std::size_t at = (pair.target_start + t) * f.d + pair.channel;
    float* const own = grads + t * pair.sources;
    dot(values, 0, pair.sources, a.grad_y + at, own);
    softmax_backward(shares + t * pair.sources, pair.sources, scale, own);
    mix(keys, 0, Terms{own, 1, 1, pair.sources}, a.grad_query + at);
  }
  for (std::size_t s = 0; s < pair.sources; ++s) {
    const std::size_t at = (pair.source_start + s) * f.d + pair.channel;
    mix(grad_y, 0, Terms{shares + s, step, 1, pair.targets}, a.grad_value + at);
    mix(queries, 0, Terms{grads + s, step, 1, pair.targets}, a.grad_key + at);
  }
}

// grads: scratch of one head's shares, at most the longest target times the longest source of the range.
template <class T>
void attention_backward(const AttentionBackward<T>& a, Range sentences, float* grads) {
  for_each_head(a.forward, sentences, [&](const HeadPair& pair) { attention_head_backward(a, pair, grads); });
}

}  // namespace
}  // namespace kserve::training
