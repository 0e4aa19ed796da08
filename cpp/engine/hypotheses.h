// Hypotheses as a tree of tokens, those that have ended, and what a caller gets of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"

namespace kserve {

struct Hypothesis {
  std::vector<std::int32_t> tokens;             // without begin and end
  double score = 0.0;                           // log_probability / length ** length_penalty, see design.md
  double log_probability = 0.0;                 // sum of token_log_probabilities
  std::vector<double> token_log_probabilities;  // of the tokens and, unless truncated, the end token
  bool truncated = false;                       // there is no end token: length cap, loop or deadline
  bool looped = false;                          // the loop guard ended it
  bool timed_out = false;                       // the deadline ended it
  std::size_t source_tokens = 0;                // columns of `attention`
  std::vector<float> attention;                 // (token_log_probabilities, source_tokens), if asked for

  // The source position that each token looked at most, the lower one of equals; never the source's end token
  // where there is another.
  std::vector<std::int32_t> alignment() const;
};

enum class Ending : std::uint8_t { kEndToken, kCap, kLoop, kDeadline };

// A hypothesis that goes on no more.
struct Finished {
  double score, end_log_probability;  // the latter of the end token, where there is one
  std::int32_t node;                  // the last token before the end, -1 for none
  std::int32_t row;                   // in which the end token was found
  std::size_t length;                 // end token included
  Ending ending;
};

// The hypotheses of one sentence. Those that begin alike share nodes.
class HypothesisTree {
 public:
  struct Node {
    double log_probability;
    std::int32_t parent;  // -1 before the first token
    std::int32_t token;
    std::int32_t row;  // in which the token was found
  };

  // nodes: the most there can be; n_best: finished hypotheses that are kept.
  HypothesisTree(std::size_t nodes, std::size_t n_best, Arena& arena);

  std::int32_t add(const Node& node);

  // The last tokens up to `node`, the newest first, at most `most`; returns how many.
  std::size_t newest(std::int32_t node, std::size_t most, std::int32_t* tokens) const;

  // Keeps it if it is one of the n_best so far. What the loop guard ended ranks behind all others; of equals
  // the first one ranks first.
  void finish(const Finished& finished);

  // Hypotheses that have ended other than by the loop guard.
  std::size_t ended() const { return ended_; }

  // Whether n_best have ended and no hypothesis with at most this score can change them.
  bool settled(double score) const;

  std::size_t kept() const { return kept_; }
  const Finished& best(std::size_t rank) const { return finished_[rank]; }
  const Node& node(std::int32_t index) const { return nodes_[index]; }

  // Tokens and probabilities of a finished hypothesis.
  Hypothesis spell(const Finished& finished) const;

 private:
  std::size_t n_best_;
  Node* nodes_;
  Finished* finished_;  // (n_best), best first
  std::int32_t node_count_ = 0;
  std::size_t kept_ = 0, ended_ = 0;
};

}  // namespace kserve
