// Greedy and beam search and sampling over the output layer's answers (docs/design.md, "Decoding").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/attention_record.h"
#include "engine/chooser.h"
#include "engine/decoder.h"
#include "engine/hypotheses.h"
#include "engine/options.h"

namespace kserve {

// One sentence of a group.
struct Task {
  std::size_t index = 0;  // in the call
  std::size_t source_tokens = 0;
  std::size_t cap = 0, floor = 0;    // most and fewest tokens, end token included
  std::vector<std::int32_t> prefix;  // tokens that the target begins with
  bool ends_after_prefix = false;    // the end token follows at once: the prefix is only scored
};

// The hypotheses of a group of sentences. Only indices and scores move from step to step.
class Search {
 public:
  // Memory comes from the arena; begin() fills it.
  Search(const DecodingOptions& options, const Model& model, std::vector<Task> tasks, Arena& arena);

  // One empty hypothesis for every sentence, or one for every sample.
  void begin();

  // The hypotheses that wait for a step; count 0 when all sentences are done.
  StepRows rows() const;

  // No request asks for more than this one.
  TokenRequest largest_request() const { return chooser_.largest_request(); }

  // What must be known of the output layer to rank a row.
  TokenRequest request(std::size_t row) const;

  // Picks the candidates of a row. Every row is ranked once, in any order.
  void rank(std::size_t row, const TokenScores& scores);

  // Chooses, once every row is ranked, what ends and what goes on.
  void advance();

  // The deadline: takes the hypotheses as they are.
  void stop();

  // The best n_best translations of a sentence, best first.
  std::vector<Hypothesis> result(std::size_t sentence) const;

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
    std::int32_t* sentences;
    std::int32_t* samples;  // which of its sentence's samples, 0 in a beam
    std::int32_t* nodes;
    std::int32_t* ancestors;  // (rows, ring), see StepRows
    double* sums;
    std::size_t count;
  };

  std::size_t max_rows() const { return tasks_.size() * options_.lanes(); }
  Rows take_rows(Arena& arena) const;
  const Task& task_of(std::size_t row) const {
    return tasks_[static_cast<std::size_t>(current_.sentences[row])];
  }
  std::int32_t forced_token(std::size_t row) const;
  void require_finite(std::size_t row, const TokenScores& scores) const;
  void add_candidate(std::size_t row, const Choice& choice);
  static bool before(const Candidate& a, const Candidate& b);
  std::size_t gather_candidates(std::size_t first, std::size_t end);
  void advance_sentence(std::size_t first, std::size_t end);
  void advance_sample(std::size_t row);
  bool is_beaten(std::size_t sentence, double sum) const;
  void keep(const Candidate& candidate, std::size_t sentence);
  void end(const Candidate& candidate, std::size_t sentence, Ending ending);
  std::int32_t add_node(const Candidate& candidate, std::size_t sentence);
  void finish(std::size_t sentence, double sum, Finished finished);
  double normalised(double sum, std::size_t length) const;

  const DecodingOptions& options_;
  std::vector<Task> tasks_;
  std::size_t ring_, beam_, width_;  // width: candidates taken from every row
  std::size_t wanted_;               // so many hypotheses end a sentence's search when they have ended
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
