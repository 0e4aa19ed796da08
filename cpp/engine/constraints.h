// Which tokens may follow a hypothesis, and which are made dearer: what the options and its own past say.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/arena.h"
#include "engine/options.h"

namespace kserve {

// A way to go on, before it is known whether it is taken.
struct Choice {
  double log_probability;  // the model's
  double ranked;           // what the search compares: with the repetition penalty
  double weight;           // sampling only
  std::int32_t id;
};

// Works from a list of the best tokens: barred tokens are left out and penalised ones only become worse, so
// the best k are among the first k + most_affected().
class TokenRules {
 public:
  TokenRules(const Constraints& constraints, std::size_t vocab, Arena& arena);

  // Fills the memory taken by the constructor.
  void begin();

  // Whether the past of a hypothesis matters.
  bool needs_history() const { return constraints_.no_repeat_ngram > 0 || penalises(); }
  bool penalises() const { return constraints_.repetition_penalty > 1.0; }

  // Most tokens that can be barred or penalised after `position` tokens.
  std::size_t most_affected(std::size_t position) const;

  // Until unmark(), allowed() and ranked() speak of the hypothesis whose tokens, the newest first, are given.
  void mark(const std::int32_t* newest, std::size_t count, bool may_end);
  void unmark(const std::int32_t* newest, std::size_t count);

  bool allowed(std::int32_t id) const {
    return (flags_ == nullptr || (flags_[id] & (kSuppressed | kBarred)) == 0) && (may_end_ || id != kEndId);
  }
  double ranked(std::int32_t id, double log_probability) const {
    const bool dearer = flags_ != nullptr && (flags_[id] & kSeen) != 0;
    return dearer ? log_probability * constraints_.repetition_penalty : log_probability;
  }

 private:
  static constexpr std::uint8_t kSuppressed = 1, kBarred = 2, kSeen = 4;

  void bar_ngrams(const std::int32_t* newest, std::size_t count);

  const Constraints& constraints_;
  std::size_t vocab_;
  std::uint8_t* flags_ = nullptr;  // (vocab), null when no token is barred or penalised by name
  bool may_end_ = true;
};

// Tokens of a loop at most: longer ones are sentences said twice.
constexpr std::size_t kLongestLoop = 16;

// Whether the tokens, the newest first, end in one n-gram of 1 to kLongestLoop tokens `times` times in a row.
bool ends_in_loop(const std::int32_t* newest, std::size_t count, std::size_t times);

}  // namespace kserve
