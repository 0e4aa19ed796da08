// From the output layer's answer about a row to the tokens that its hypothesis may go on with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "engine/arena.h"
#include "engine/constraints.h"
#include "engine/hypotheses.h"
#include "engine/options.h"
#include "engine/output.h"
#include "engine/sampling.h"

namespace kserve {

class Chooser {
 public:
  // The hypothesis that is to go on.
  struct Situation {
    std::int32_t node;     // its last token
    std::size_t position;  // how many it has
    bool may_end;          // the shortest length is reached
    DrawPlace draw;        // for sampling
  };
  struct Choices {
    const Choice* first;
    std::size_t count;
  };

  // width: choices wanted at most when nothing is drawn. longest: most tokens of a hypothesis.
  Chooser(const DecodingOptions& options, std::size_t vocab, std::size_t width, std::size_t longest,
          Arena& arena);

  // Fills the memory taken by the constructor.
  void begin() { rules_.begin(); }

  // No request asks for more than this one.
  TokenRequest largest_request() const { return request(longest_); }

  // What choose() must know after `position` tokens.
  TokenRequest request(std::size_t position) const;

  // The best choices, best first, or the one that is drawn; never none. Good until the next call.
  Choices choose(const TokenScores& scores, const Situation& situation, const HypothesisTree& tree);

  // Whether the loop guard ends the hypothesis with this last token.
  bool loops(std::int32_t node, const HypothesisTree& tree);

 private:
  bool needs_all() const { return sampling_ && sampling_->top_k == 0; }
  std::size_t requested(std::size_t position) const;
  std::size_t gather(const TokenScores& scores);

  const std::optional<Sampling>& sampling_;
  std::size_t vocab_, width_, longest_, loop_guard_;
  TokenRules rules_;
  Choice* choices_;                  // (vocab), or as many as the largest request
  std::int32_t* history_ = nullptr;  // (longest) tokens of the hypothesis, the newest first
};

}  // namespace kserve
