// The output layer's answer about one row: its soft-max sum and its best tokens.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/arena.h"
#include "engine/layers.h"

namespace kserve {

// What a search asks about one row.
struct TokenRequest {
  std::size_t best = 1;     // this many tokens with the largest logits; at most the vocabulary without 3 ids
  bool all = false;         // the logits of all tokens
  std::int32_t token = -1;  // the logit of this one, -1 for none; reserved ids may be asked for
};

// Good until the next answer. Unknown, begin and padding are in neither list.
struct TokenScores {
  float log_sum_exp = 0.0F;           // over the whole vocabulary
  std::size_t count = 0;              // of the best tokens; fewer than asked for when logits are not finite
  const std::int32_t* ids = nullptr;  // largest logit first, equal ones by ascending id
  const float* logits = nullptr;      // of `ids`
  const float* all = nullptr;         // (vocab), -infinity where a token is never produced; null unless asked
  float token_logit = 0.0F;           // of the token asked for
};

// Rows whose logits (vocab floats each) exist at one time: enough to use every loaded row of the output table
// several times, few enough for the second-level cache.
constexpr std::size_t kOutputRows = 8;

class OutputLayer {
 public:
  // largest: no request asks for more than this one.
  OutputLayer(const Model& model, const TokenRequest& largest, Arena& arena);

  // hidden (count, d), after decoder.norm, stays where it is until the last answer; count <= kOutputRows.
  // best: the most tokens that will be asked for about one of these rows.
  void project(const float* hidden, std::size_t count, std::size_t best);

  // About row `row` of the last projection; each row may be asked about once.
  TokenScores answer(std::size_t row, const TokenRequest& request);

 private:
  const Model& model_;
  std::size_t vocab_;
  std::size_t best_ = 0;          // tokens that may be asked for about a row
  float* logits_ = nullptr;       // (kOutputRows, vocab)
  std::int32_t* ids_ = nullptr;   // (most)
  float* best_logits_ = nullptr;  // (most), or (vocab) when many are asked for
};

// Writes the ids of the `count` largest of `size` numbers to `best`, largest first, equal ones by ascending
// id. Numbers that are -infinity or NaN are never taken. Returns how many were found.
std::size_t select_largest(const float* numbers, std::size_t size, std::size_t count, std::int32_t* best);

}  // namespace kserve
