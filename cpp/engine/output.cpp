#include "engine/output.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

namespace kserve {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
// From here on a sorted list is dearer than selection over an array of all ids.
constexpr std::size_t kMany = 64;

// Whether any of `size` numbers is above the threshold; without a branch per number, so that it is
// vectorised.
bool any_above(const float* numbers, std::size_t size, float threshold) {
  unsigned any = 0;
  for (std::size_t i = 0; i < size; ++i) any |= static_cast<unsigned>(numbers[i] > threshold);
  return any != 0;
}

// As select_largest, for many. No number is NaN; `copy` has room for `size` of them.
std::size_t select_many(const float* numbers, std::size_t size, std::size_t count, float* copy,
                        std::int32_t* best) {
  std::copy_n(numbers, size, copy);
  std::nth_element(copy, copy + (count - 1), copy + size, std::greater<float>());
  const float threshold = copy[count - 1];
  std::size_t found = 0;
  for (std::size_t i = 0; i < size; ++i) {
    if (numbers[i] > threshold) best[found++] = static_cast<std::int32_t>(i);
  }
  for (std::size_t i = 0; i < size && found < count && threshold > kNever; ++i) {
    if (numbers[i] == threshold) best[found++] = static_cast<std::int32_t>(i);
  }
  std::sort(best, best + found, [=](std::int32_t a, std::int32_t b) {
    return numbers[a] != numbers[b] ? numbers[a] > numbers[b] : a < b;
  });
  return found;
}

}  // namespace

std::size_t select_largest(const float* numbers, std::size_t size, std::size_t count, std::int32_t* best) {
  constexpr std::size_t kBlock = 64;
  std::size_t found = 0;
  float threshold = kNever;  // the smallest of the taken ones, once there are `count`
  for (std::size_t base = 0; base < size; base += kBlock) {
    const std::size_t end = std::min(base + kBlock, size);
    if (!any_above(numbers + base, end - base, threshold)) continue;
    for (std::size_t i = base; i < end; ++i) {
      if (!(numbers[i] > threshold)) continue;
      std::size_t place = found < count ? found++ : count - 1;
      for (; place > 0 && numbers[best[place - 1]] < numbers[i]; --place) best[place] = best[place - 1];
      best[place] = static_cast<std::int32_t>(i);
      if (found == count) threshold = numbers[best[count - 1]];
    }
  }
  return found;
}

OutputLayer::OutputLayer(const Model& model, const TokenRequest& largest, Arena& arena)
    : model_(model), vocab_(model.weights.architecture.vocab_size) {
  logits_ = arena.take<float>(kOutputRows * vocab_);
  ids_ = arena.take<std::int32_t>(largest.best);
  best_logits_ = arena.take<float>(largest.best > kMany ? vocab_ : largest.best);
}

void OutputLayer::project(const float* hidden, std::size_t count, std::size_t best) {
  best_ = best;
  const Weights& weights = model_.weights;
  const std::size_t d = weights.architecture.d_model;
  model_.table->project(weights.embedding, weights.embedding_scale, vocab_, d, hidden, d, count, logits_,
                        vocab_);
}

TokenScores OutputLayer::answer(std::size_t row, const TokenRequest& request) {
  float* const logits = logits_ + row * vocab_;
  TokenScores scores;
  scores.log_sum_exp = model_.table->log_sum_exp(logits, vocab_);
  if (!std::isfinite(scores.log_sum_exp)) return scores;
  if (request.token >= 0) scores.token_logit = logits[request.token];
  for (std::int32_t id : {kUnknownId, kBeginId, kPaddingId}) logits[id] = kNever;
  if (request.all) scores.all = logits;
  const std::size_t wanted = std::min(request.best, best_);
  if (wanted == 0) return scores;
  scores.count = wanted > kMany ? select_many(logits, vocab_, wanted, best_logits_, ids_)
                                : select_largest(logits, vocab_, wanted, ids_);
  for (std::size_t i = 0; i < scores.count; ++i) best_logits_[i] = logits[ids_[i]];
  scores.ids = ids_;
  scores.logits = best_logits_;
  return scores;
}

}  // namespace kserve
