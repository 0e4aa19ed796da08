#include "engine/chooser.h"

#include <algorithm>
#include <cmath>

namespace kserve {
namespace {

constexpr std::size_t kReservedIds = 3;  // unknown, begin, padding

bool before(const Choice& a, const Choice& b) {
  return a.ranked != b.ranked ? a.ranked > b.ranked : a.id < b.id;
}

}  // namespace

Chooser::Chooser(const DecodingOptions& options, std::size_t vocab, std::size_t width, std::size_t longest,
                 Arena& arena)
    : sampling_(options.sampling),
      vocab_(vocab),
      width_(sampling_ ? static_cast<std::size_t>(sampling_->top_k) : width),
      longest_(longest),
      loop_guard_(static_cast<std::size_t>(options.constraints.loop_guard)),
      rules_(options.constraints, vocab, arena) {
  choices_ = arena.take<Choice>(needs_all() ? vocab : requested(longest));
  if (rules_.needs_history() || loop_guard_ > 0) history_ = arena.take<std::int32_t>(longest);
}

std::size_t Chooser::requested(std::size_t position) const {
  return std::min(width_ + rules_.most_affected(position), vocab_ - kReservedIds);
}

TokenRequest Chooser::request(std::size_t position) const {
  if (needs_all()) return {0, true, -1};
  return {requested(position), false, -1};
}

Chooser::Choices Chooser::choose(const TokenScores& scores, const Situation& situation,
                                 const HypothesisTree& tree) {
  const std::size_t past =
      rules_.needs_history() ? tree.newest(situation.node, longest_, history_) : std::size_t{0};
  rules_.mark(history_, past, situation.may_end);
  std::size_t count = gather(scores);
  rules_.unmark(history_, past);
  if (rules_.penalises()) std::sort(choices_, choices_ + count, before);
  if (!needs_all()) count = std::min(count, width_);
  if (!sampling_) return {choices_, count};
  choices_[0] = draw(*sampling_, uniform(sampling_->seed, situation.draw), choices_, count);
  return {choices_, 1};
}

// Fills choices_ with what may follow; where the rules leave nothing, that is the end token.
std::size_t Chooser::gather(const TokenScores& scores) {
  std::size_t count = 0;
  Choice end{};
  const auto look_at = [&](std::int32_t id, float logit) {
    const double log_probability = static_cast<double>(logit) - static_cast<double>(scores.log_sum_exp);
    const Choice choice{log_probability, rules_.ranked(id, log_probability), 0.0, id};
    if (rules_.allowed(id)) choices_[count++] = choice;
    if (id == kEndId) end = choice;
  };
  for (std::size_t i = 0; i < scores.count; ++i) look_at(scores.ids[i], scores.logits[i]);
  for (std::size_t id = 0; scores.all != nullptr && id < vocab_; ++id) {
    if (std::isfinite(scores.all[id])) look_at(static_cast<std::int32_t>(id), scores.all[id]);
  }
  // Only when every token was looked at, and so the end token too.
  if (count == 0) choices_[count++] = end;
  return count;
}

bool Chooser::loops(std::int32_t node, const HypothesisTree& tree) {
  if (loop_guard_ == 0) return false;
  const std::size_t count = tree.newest(node, std::min(kLongestLoop * loop_guard_, longest_), history_);
  return ends_in_loop(history_, count, loop_guard_);
}

}  // namespace kserve
