// Label-smoothed cross-entropy and its gradient, in place over the scores of a row.
#pragma once

#include <math.h>

#include "kernels/softmax-inl.h"
#include "training/storage-inl.h"

namespace kserve::training {
namespace {

// scores (n) become exp(score - peak); returns {sum of them, sum of the scores} and the peak.
template <class T>
KSERVE_INLINE void exponentials(T* scores, std::size_t n, float* peak, float* sum, float* total) {
  Vec top = Vec::broadcast(-INFINITY), plain = Vec::zero(), exponential_sum = Vec::zero();
  each_vector(n, [&](Lanes at) {
    const Vec x = at.of(scores);
    plain = plain + x;
    top = Vec::max(top, at.count == kLanes ? x : x.first_or(at.count, top));
  });
  *peak = top.largest();
  const Vec highest = Vec::broadcast(*peak);
  each_vector(n, [&](Lanes at) {
    const Vec e = kernels::exponential(at.of(scores) - highest);
    exponential_sum = exponential_sum + at.masked(e);
    at.put(e, scores);
  });
  *sum = exponential_sum.sum();
  *total = plain.sum();
}

// loss = (1 - smoothing) * nll(target) + smoothing * mean of nll over the vocabulary
// gradient = softmax - smoothing / vocabulary, less 1 - smoothing at the target.
template <class T>
void loss_row(const Loss<T>& a, T* scores, std::size_t target, double* totals) {
  const std::size_t n = a.vocabulary;
  const float wanted = number(scores + target);
  float peak, sum, total;
  exponentials(scores, n, &peak, &sum, &total);
  const double log_sum = static_cast<double>(peak) + static_cast<double>(::logf(sum));
  const double nll = log_sum - static_cast<double>(wanted);
  const double mean = log_sum - static_cast<double>(total) / static_cast<double>(n);
  const auto smoothing = static_cast<double>(a.smoothing);
  totals[0] += (1.0 - smoothing) * nll + smoothing * mean;
  totals[1] += nll;
  const float share = a.weight / sum, floor = a.weight * a.smoothing / static_cast<float>(n);
  const float chosen = number(scores + target) * share - floor - a.weight * (1.0F - a.smoothing);
  const Vec scale = Vec::broadcast(share), below = Vec::broadcast(-floor);
  each_vector(n, [&](Lanes at) { at.put(Vec::fma(at.of(scores), scale, below), scores); });
  store_first(Vec::broadcast(chosen), scores + target, 1);
}

template <class T>
void loss(const Loss<T>& a, Range rows, double* totals) {
  for (std::size_t row = rows.first; row < rows.last; ++row) {
    T* const scores = a.scores + row * a.vocabulary;
    if (a.targets[row] < 0) {
      each_vector(a.vocabulary, [&](Lanes at) { at.put(Vec::zero(), scores); });
    } else {
      loss_row(a, scores, static_cast<std::size_t>(a.targets[row]), totals);
    }
  }
}

}  // namespace
}  // namespace kserve::training
