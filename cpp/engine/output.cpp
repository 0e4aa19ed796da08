#include "engine/output.h"

#include <array>
#include <cmath>
#include <limits>

namespace kserve {
namespace {

constexpr std::array<std::int32_t, 3> kNeverProduced = {kUnknownId, kBeginId, kPaddingId};

}  // namespace

OutputLayer::OutputLayer(const Model& model, const TokenRequest& largest, Arena& arena)
    : model_(model), vocabulary_(model.vocabulary()) {
  ids_ = arena.take<std::int32_t>(kOutputRows * largest.best);
  logits_ = arena.take<float>(kOutputRows * largest.best);
  log_sum_exp_ = arena.take<float>(kOutputRows);
  if (largest.all) all_ = arena.take<float>(vocabulary_.size);
  scratch_ = arena.take<std::byte>(kernels::rank_scratch_bytes(vocabulary_.n, kOutputRows));
}

void OutputLayer::project(const float* hidden, std::size_t count, std::size_t best) {
  hidden_ = hidden;
  best_ = best;
  const kernels::Ranking ranking{best,    kNeverProduced.data(), kNeverProduced.size(), ids_,
                                 logits_, log_sum_exp_};
  model_.table->rank_tokens(vocabulary_, hidden, count, ranking, scratch_);
}

TokenScores OutputLayer::answer(std::size_t row, const TokenRequest& request) {
  const float* hidden = hidden_ + row * vocabulary_.n;
  const auto logit = [&](std::size_t token) { return model_.table->token_logit(vocabulary_, token, hidden); };
  TokenScores scores;
  scores.log_sum_exp = log_sum_exp_[row];
  if (!std::isfinite(scores.log_sum_exp)) return scores;
  scores.ids = ids_ + row * best_;
  scores.logits = logits_ + row * best_;
  while (scores.count < request.best && scores.ids[scores.count] >= 0) ++scores.count;
  if (request.token >= 0) scores.token_logit = logit(static_cast<std::size_t>(request.token));
  if (request.all) {
    for (std::size_t token = 0; token < vocabulary_.size; ++token) all_[token] = logit(token);
    for (std::int32_t id : kNeverProduced) all_[id] = -std::numeric_limits<float>::infinity();
    scores.all = all_;
  }
  return scores;
}

}  // namespace kserve
