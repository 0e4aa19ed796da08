#include "engine/hypotheses.h"

#include <algorithm>
#include <numeric>

namespace kserve {
namespace {

bool better(const Finished& a, const Finished& b) {
  const bool a_looped = a.ending == Ending::kLoop, b_looped = b.ending == Ending::kLoop;
  return a_looped != b_looped ? b_looped : a.score > b.score;
}

}  // namespace

std::vector<std::int32_t> Hypothesis::alignment() const {
  std::vector<std::int32_t> positions;
  if (source_tokens == 0) return positions;
  const std::size_t columns = std::max(source_tokens - 1, std::size_t{1});
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const float* const shares = attention.data() + t * source_tokens;
    positions.push_back(static_cast<std::int32_t>(std::max_element(shares, shares + columns) - shares));
  }
  return positions;
}

HypothesisTree::HypothesisTree(std::size_t nodes, std::size_t n_best, Arena& arena)
    : n_best_(n_best), nodes_(arena.take<Node>(nodes)), finished_(arena.take<Finished>(n_best)) {}

std::int32_t HypothesisTree::add(const Node& node) {
  nodes_[node_count_] = node;
  return node_count_++;
}

std::size_t HypothesisTree::newest(std::int32_t node, std::size_t most, std::int32_t* tokens) const {
  std::size_t count = 0;
  for (; node >= 0 && count < most; node = nodes_[node].parent) tokens[count++] = nodes_[node].token;
  return count;
}

void HypothesisTree::finish(const Finished& finished) {
  if (finished.ending != Ending::kLoop) ++ended_;
  std::size_t place = kept_;
  while (place > 0 && better(finished, finished_[place - 1])) --place;
  if (place == n_best_) return;
  if (kept_ < n_best_) ++kept_;
  std::copy_backward(finished_ + place, finished_ + kept_ - 1, finished_ + kept_);
  finished_[place] = finished;
}

bool HypothesisTree::settled(double score) const {
  if (kept_ < n_best_) return false;
  const Finished& last = best(n_best_ - 1);
  return last.ending != Ending::kLoop && last.score > score;
}

Hypothesis HypothesisTree::spell(const Finished& finished) const {
  Hypothesis hypothesis;
  hypothesis.score = finished.score;
  hypothesis.truncated = finished.ending != Ending::kEndToken;
  hypothesis.looped = finished.ending == Ending::kLoop;
  hypothesis.timed_out = finished.ending == Ending::kDeadline;
  std::vector<double>& probabilities = hypothesis.token_log_probabilities;
  if (!hypothesis.truncated) probabilities.push_back(finished.end_log_probability);
  for (std::int32_t node = finished.node; node >= 0; node = nodes_[node].parent) {
    hypothesis.tokens.push_back(nodes_[node].token);
    probabilities.push_back(nodes_[node].log_probability);
  }
  std::reverse(hypothesis.tokens.begin(), hypothesis.tokens.end());
  std::reverse(probabilities.begin(), probabilities.end());
  // From the first token on, as the search added them up.
  hypothesis.log_probability = std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  return hypothesis;
}

}  // namespace kserve
