// Greedy and beam search over the log-probabilities of the output layer (docs/design.md, "Decoding").
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/decoder.h"
#include "engine/output.h"

namespace kserve {

struct DecodingOptions {
  std::int64_t beam_size = 1;
  std::int64_t n_best = 1;
  double length_penalty = 1.0;
  std::int64_t max_length = 0;  // tokens with the end token; 0: from the next two
  double max_length_ratio = 2.0;
  std::int64_t max_length_extra = 10;
  std::int64_t max_batch_tokens = 4096;  // source tokens times beam that are worked on together
};

// Throws OptionError, naming the option, what it is and what it may be.
void check(const DecodingOptions& options, const Architecture& architecture);

// Most tokens, end token included, that a translation of `source_tokens` tokens may have.
std::size_t length_cap(const DecodingOptions& options, std::size_t max_positions, std::size_t source_tokens);

struct Hypothesis {
  std::vector<std::int32_t> tokens;             // without begin and end
  double score = 0.0;                           // log_probability / length ** length_penalty
  double log_probability = 0.0;                 // sum of token_log_probabilities
  std::vector<double> token_log_probabilities;  // of the tokens and, unless truncated, the end token
  bool truncated = false;                       // the length cap came before the end token
};

// The hypotheses of a group of sentences. Only indices and scores move from step to step.
class Search {
 public:
  // caps: length cap of each sentence. Memory comes from the arena; begin() fills it.
  Search(const DecodingOptions& options, const Model& model, std::vector<std::size_t> caps, Arena& arena);

  // One empty hypothesis for every sentence.
  void begin();

  // The hypotheses that wait for a step; count 0 when all sentences are done.
  StepRows rows() const;

  // What to ask the output layer about a row.
  TokenRequest request() const { return {width_, false, -1}; }

  // Takes the answer about a row: its candidates.
  void rank(std::size_t row, const TokenScores& scores);

  // Chooses, once every row is ranked, what ends and what goes on.
  void advance();

  // The best n_best translations of a sentence, best first.
  std::vector<Hypothesis> result(std::size_t sentence) const;

 private:
  // A way to go on from a row.
  struct Candidate {
    double sum;              // log-probability of the hypothesis with this token
    double log_probability;  // of this token
    std::int32_t id, row;
  };
  // A token of a hypothesis; hypotheses that begin alike share nodes.
  struct Node {
    double log_probability;
    std::int32_t parent;  // -1 before the first token
    std::int32_t token;
  };
  struct Finished {
    double sum, score, end_log_probability;
    std::int32_t node;  // the last token before the end, -1 for none
    bool truncated;
  };
  // Structure of arrays over the live hypotheses.
  struct Rows {
    std::int32_t* tokens;
    std::int32_t* sentences;
    std::int32_t* nodes;
    std::int32_t* ancestors;  // (rows, ring), see StepRows
    double* sums;
    std::size_t count;
  };

  Rows take_rows(Arena& arena) const;
  static bool before(const Candidate& a, const Candidate& b);
  void advance_sentence(std::size_t first, std::size_t end);
  void finish(const Candidate& candidate, std::size_t sentence);
  void truncate(const Candidate& candidate, std::size_t sentence);
  void keep(const Candidate& candidate, std::size_t sentence);
  std::int32_t add_node(const Candidate& candidate);
  double score(double sum, std::size_t length) const;

  const DecodingOptions& options_;
  std::size_t ring_, beam_, width_;  // width: candidates taken from every row
  std::size_t position_ = 0;
  std::vector<std::size_t> caps_;
  Rows current_, next_;
  Candidate* candidates_;  // (rows, width)
  Node* nodes_;
  std::int32_t node_count_ = 0;
  Finished* finished_;            // (sentences, 3 * beam)
  std::size_t* finished_counts_;  // (sentences)
};

}  // namespace kserve
