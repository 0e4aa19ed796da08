// Greedy and beam search and sampling for one sentence, over the output layer's answers (docs/design.md,
// "Decoding").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/attention_record.h"
#include "engine/chooser.h"
#include "engine/hypotheses.h"
#include "engine/layers.h"
#include "engine/options.h"

namespace kserve {

// A sentence to be translated.
struct Task {
  std::size_t index = 0;  // in the call
  std::size_t source_tokens = 0;
  std::size_t cap = 0, floor = 0;    // most and fewest tokens, end token included
  std::vector<std::int32_t> prefix;  // tokens that the target begins with
  bool ends_after_prefix = false;    // the end token follows at once: the prefix is only scored
};

// The hypotheses that take a step: all stand at the same position.
struct SearchRows {
  std::size_t position = 0;  // of the input token, 0 for the begin token
  std::size_t count = 0;
  const std::int32_t* tokens = nullptr;  // (count) last token of each
  // (count, ring): which row each hypothesis's ancestor was at position p, in slot p % ring; the current
  // position's slot holds the row itself.
  const std::int32_t* ancestors = nullptr;
};

class Search {
 public:
  // Memory comes from the arena, and begin() fills it. Options and task must outlive the search.
  Search(const DecodingOptions& options, const Model& model, const Task& task, Arena& arena);

  // One empty hypothesis, or one for every sample.
  void begin();

  // The hypotheses that wait for a step; count 0 when the sentence is done.
  SearchRows rows() const { return {position_, current_.count, current_.tokens, current_.ancestors}; }

  // Positions that `ancestors` remembers.
  std::size_t ring() const { return ring_; }

  // Where the attention of a row belongs, (source), and that of which layer; null when nobody wants it.
  float* attention(std::size_t row) const {
    return attention_ ? attention_->shares(position_, static_cast<std::int32_t>(row)) : nullptr;
  }
  std::size_t attention_layer() const { return attention_layer_; }

  // No request asks for more than this one.
  TokenRequest largest_request() const { return chooser_.largest_request(); }

  // What must be known of the output layer to rank each row.
  TokenRequest request() const;

  // Picks the candidates of a row. Every row is ranked once, in any order. Throws NumericError when the
  // output layer's answer is no number.
  void rank(std::size_t row, const TokenScores& scores);

  // Chooses, once every row is ranked, what ends and what goes on.
  void advance();

  // The deadline: takes the hypotheses as they are.
  void stop();

  // The best n_best translations, best first.
  std::vector<Hypothesis> result() const;

 private:
  // A way to go on from a row.
  struct Candidate {
    double sum;              // of the hypothesis with this token, as compared
    double log_probability;  // of this token
    std::int32_t id, row;
  };
  // Structure of arrays over the live hypotheses.
  struct Rows {
    std::int32_t* tokens;
    std::int32_t* samples;  // which sample, 0 in a beam
    std::int32_t* nodes;
    std::int32_t* ancestors;  // (rows, ring), see SearchRows
    double* sums;
    std::size_t count;
  };

  Rows take_rows(Arena& arena) const;
  std::int32_t forced_token() const;
  void require_finite(const TokenScores& scores) const;
  void add_candidate(std::size_t row, const Choice& choice);
  static bool before(const Candidate& a, const Candidate& b);
  std::size_t gather_candidates();
  void advance_beam();
  void advance_sample(std::size_t row);
  bool is_beaten(double sum) const;
  void keep(const Candidate& candidate);
  void end(const Candidate& candidate, Ending ending);
  std::int32_t add_node(const Candidate& candidate);
  void finish(double sum, Finished finished);
  double normalised(double sum, std::size_t length) const;

  const DecodingOptions& options_;
  const Task& task_;
  std::size_t ring_, beam_, width_;  // width: candidates taken from every row
  std::size_t wanted_;               // so many hypotheses end the search when they have ended
  std::size_t attention_layer_;
  std::size_t position_ = 0;
  Chooser chooser_;
  HypothesisTree tree_;
  std::optional<AttentionRecord> attention_;
  Rows current_, next_;
  Candidate* candidates_;  // (rows, width)
  std::size_t* counts_;    // (rows) candidates of each
};

}  // namespace kserve
