// The output layer's answers about rows of hidden states: the log-sum-exp of their logits and their best
// tokens.
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

// Good until the next answer. Unknown, begin and padding are in neither list. All logits are exact
// (KernelTable::token_logit).
struct TokenScores {
  bool finite = false;                // whether everything asked for is a number
  float log_sum_exp = 0.0F;           // over the tokens that the layer looked at
  std::size_t count = 0;              // of the best tokens
  const std::int32_t* ids = nullptr;  // largest logit first, equal ones by ascending id
  const float* logits = nullptr;      // of `ids`
  const float* all = nullptr;         // (vocab), -infinity where a token is never produced; null unless asked
  float token_logit = 0.0F;           // of the token asked for
};

// Rows of hidden states that are projected together: one pass over the table serves them all.
constexpr std::size_t kOutputRows = kChunkRows;

class OutputLayer {
 public:
  // best: the most tokens that will be asked for about one row. all: whether all logits will be.
  OutputLayer(const Model& model, std::size_t best, bool all, Arena& arena);

  // hidden (count, d), after the output norm, stays where it is until the last answer; count <= kOutputRows.
  // vocabulary: the tokens that are looked at, as does; best: the most that will be asked for about these
  // rows.
  void project(const kernels::Vocabulary& vocabulary, const float* hidden, std::size_t count,
               std::size_t best);

  // About row `row` of the last projection.
  TokenScores answer(std::size_t row, const TokenRequest& request);

 private:
  void list_all(const float* hidden);
  void choose_from_all(std::size_t row, std::size_t best);

  const Model& model_;
  kernels::Vocabulary full_;
  const kernels::Vocabulary* vocabulary_ = nullptr;
  const float* hidden_ = nullptr;
  std::size_t best_ = 0;          // tokens ranked of every row
  std::int32_t* ids_ = nullptr;   // (kOutputRows, best)
  float* logits_ = nullptr;       // (kOutputRows, best)
  float* log_sum_exp_ = nullptr;  // (kOutputRows)
  float* all_ = nullptr;          // (vocab), for requests of all logits
  std::byte* scratch_ = nullptr;
};

}  // namespace kserve
