#include "engine/constraints.h"

#include <algorithm>

namespace kserve {

TokenRules::TokenRules(const Constraints& constraints, std::size_t vocab, Arena& arena)
    : constraints_(constraints), vocab_(vocab) {
  if (!constraints.suppressed.empty() || needs_history()) flags_ = arena.take<std::uint8_t>(vocab);
}

void TokenRules::begin() {
  if (flags_ == nullptr) return;
  std::fill_n(flags_, vocab_, std::uint8_t{0});
  for (std::int64_t id : constraints_.suppressed) flags_[id] = kSuppressed;
}

std::size_t TokenRules::most_affected(std::size_t position) const {
  const bool has_floor = constraints_.min_length > 0 || constraints_.min_length_ratio > 0.0;
  return constraints_.suppressed.size() + (has_floor ? 1 : 0) + (needs_history() ? position : 0);
}

void TokenRules::mark(const std::int32_t* newest, std::size_t count, bool may_end) {
  may_end_ = may_end;
  if (penalises()) {
    for (std::size_t i = 0; i < count; ++i) flags_[newest[i]] |= kSeen;
  }
  if (constraints_.no_repeat_ngram > 0) bar_ngrams(newest, count);
}

void TokenRules::unmark(const std::int32_t* newest, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) flags_[newest[i]] &= kSuppressed;
}

// Bars every token that came after the tokens that the hypothesis ends with now.
void TokenRules::bar_ngrams(const std::int32_t* newest, std::size_t count) {
  const auto size = static_cast<std::size_t>(constraints_.no_repeat_ngram);
  for (std::size_t next = 0; next + size <= count; ++next) {
    const std::int32_t* const before = newest + next + 1;
    if (std::equal(before, before + size - 1, newest)) flags_[newest[next]] |= kBarred;
  }
}

bool ends_in_loop(const std::int32_t* newest, std::size_t count, std::size_t times) {
  for (std::size_t period = 1; period <= std::min(kLongestLoop, count / times); ++period) {
    if (std::equal(newest, newest + (times - 1) * period, newest + period)) return true;
  }
  return false;
}

}  // namespace kserve
