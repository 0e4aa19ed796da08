// The attention of one decoder layer at every step of a sentence's search, kept only when somebody asks for
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/hypotheses.h"

namespace kserve {

class AttentionRecord {
 public:
  struct Sizes {
    std::size_t positions, rows, source;
  };

  AttentionRecord(const Sizes& sizes, Arena& arena)
      : sizes_(sizes), shares_(arena.take<float>(sizes.positions * sizes.rows * sizes.source)) {}

  // Where the attention of a row at a position belongs, (source).
  float* shares(std::size_t position, std::int32_t row) const {
    return shares_ + (position * sizes_.rows + static_cast<std::size_t>(row)) * sizes_.source;
  }

  // (target tokens, source) of a finished hypothesis, the end token included where there is one.
  std::vector<float> spell(const HypothesisTree& tree, const Finished& finished) const;

  // Sum over the source of log(attention from all target tokens together, at most 1): Wu et al. 2016,
  // "Google's Neural Machine Translation System", equation 14. 0 when every source token was looked at.
  double coverage(const HypothesisTree& tree, const Finished& finished) const;

 private:
  template <class Visit>
  void each(const HypothesisTree& tree, const Finished& finished, const Visit& visit) const;

  Sizes sizes_;
  float* shares_;  // (positions, rows, source)
};

}  // namespace kserve
