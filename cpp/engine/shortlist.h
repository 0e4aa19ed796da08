// The part of the vocabulary that may translate one sentence, copied together so that it is read in a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/layers.h"

namespace kserve {

// The tokens that the lists of the source's tokens, the list for any sentence and `forced` name together,
// ascending; the end token is among them, those that are never produced are not. The weights have a
// shortlist.
std::vector<std::int32_t> shortlist_tokens(const Weights& weights, const std::vector<std::int32_t>& source,
                                           const std::vector<std::int32_t>& forced);

class ShortVocabulary {
 public:
  // Memory for `tokens`, which must stay; fill() copies.
  ShortVocabulary(const Model& model, const std::vector<std::int32_t>& tokens, Arena& arena);

  void fill();

  const kernels::Vocabulary& get() const { return vocabulary_; }

 private:
  const Model& model_;
  std::int8_t* panels_;
  float* scale_;
  float* reach_;
  std::int32_t* offset_;
  kernels::Vocabulary vocabulary_;
};

}  // namespace kserve
