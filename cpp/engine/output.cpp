#include "engine/output.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace kserve {
namespace {

constexpr std::array<std::int32_t, 3> kNeverProduced = {kUnknownId, kBeginId, kPaddingId};

bool is_produced(std::int32_t id) {
  return std::find(kNeverProduced.begin(), kNeverProduced.end(), id) == kNeverProduced.end();
}

}  // namespace

OutputLayer::OutputLayer(const Model& model, std::size_t best, bool all, Arena& arena)
    : model_(model), full_(model.vocabulary()) {
  ids_ = arena.take<std::int32_t>(kOutputRows * best);
  logits_ = arena.take<float>(kOutputRows * best);
  log_sum_exp_ = arena.take<float>(kOutputRows);
  if (all || best > kernels::kMostRanked) all_ = arena.take<float>(full_.size);
  const std::size_t ranked = std::min(best, kernels::kMostRanked);
  scratch_ = arena.take<std::byte>(kernels::rank_memory(full_.n, kOutputRows, ranked).bytes);
}

void OutputLayer::project(const kernels::Vocabulary& vocabulary, const float* hidden, std::size_t count,
                          std::size_t best) {
  vocabulary_ = &vocabulary;
  hidden_ = hidden;
  best_ = best;
  // Longer lists are chosen from all logits, row by row, when they are asked for.
  const std::size_t ranked = best > kernels::kMostRanked ? 0 : best;
  // A list of some tokens holds none that is never produced.
  const std::size_t barred = vocabulary.ids == nullptr ? kNeverProduced.size() : 0;
  const kernels::Ranking ranking{ranked, kNeverProduced.data(), barred, ids_, logits_, log_sum_exp_};
  model_.table->rank_tokens(vocabulary, hidden, count, ranking, scratch_);
  if (vocabulary.ids == nullptr) return;
  for (std::size_t i = 0; i < count * ranked; ++i) {
    if (ids_[i] >= 0) ids_[i] = vocabulary.ids[ids_[i]];
  }
}

// all_ = the logits of every token that the layer looks at and that is ever produced, else -infinity.
void OutputLayer::list_all(const float* hidden) {
  std::fill_n(all_, full_.size, -std::numeric_limits<float>::infinity());
  for (std::size_t token = 0; token < vocabulary_->size; ++token) {
    const auto id = vocabulary_->ids == nullptr ? static_cast<std::int32_t>(token) : vocabulary_->ids[token];
    if (is_produced(id)) all_[id] = model_.table->token_logit(*vocabulary_, token, hidden);
  }
}

// The row's lists of best tokens, from all_.
void OutputLayer::choose_from_all(std::size_t row, std::size_t best) {
  std::vector<std::int32_t> order;
  for (std::size_t id = 0; id < full_.size; ++id) {
    if (std::isfinite(all_[id])) order.push_back(static_cast<std::int32_t>(id));
  }
  const std::size_t count = std::min(best, order.size());
  const auto before = [this](std::int32_t a, std::int32_t b) {
    return all_[a] != all_[b] ? all_[a] > all_[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), before);
  std::int32_t* const ids = ids_ + row * best_;
  std::fill_n(ids, best_, -1);
  for (std::size_t i = 0; i < count; ++i) {
    ids[i] = order[i];
    logits_[row * best_ + i] = all_[order[i]];
  }
}

TokenScores OutputLayer::answer(std::size_t row, const TokenRequest& request) {
  const float* const hidden = hidden_ + row * full_.n;
  TokenScores scores;
  scores.log_sum_exp = log_sum_exp_[row];
  if (!std::isfinite(scores.log_sum_exp)) return scores;
  const bool chooses = request.best > 0 && best_ > kernels::kMostRanked;
  if (request.all || chooses) list_all(hidden);
  if (chooses) choose_from_all(row, request.best);
  if (request.all) scores.all = all_;
  scores.ids = ids_ + row * best_;
  scores.logits = logits_ + row * best_;
  while (scores.count < request.best && scores.ids[scores.count] >= 0) ++scores.count;
  if (request.token >= 0) {
    scores.token_logit = model_.table->token_logit(full_, static_cast<std::size_t>(request.token), hidden);
  }
  scores.finite = std::isfinite(scores.token_logit) && (request.best == 0 || scores.count > 0);
  return scores;
}

}  // namespace kserve
