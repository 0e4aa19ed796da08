// How to decode: what a caller may choose, checked before a call begins (docs/design.md, "Decoding").
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/control.h"
#include "engine/weights.h"

namespace kserve {

// When a beam search ends and what its scores are made of.
struct BeamRules {
  bool early_stop = true;         // ends when beam_size * patience hypotheses have ended
  double patience = 1.0;          // 1 to 10
  double coverage_penalty = 0.0;  // weight of the coverage in the score
};

// What may come next in a hypothesis.
struct Constraints {
  std::int64_t min_length = 0;           // tokens with the end token
  double min_length_ratio = 0.0;         // the same, for each token of the source; the larger one counts
  std::vector<std::int64_t> suppressed;  // tokens that never come
  std::int64_t no_repeat_ngram = 0;      // no n-gram of this length comes twice; 0: off
  double repetition_penalty = 1.0;       // log-probabilities of tokens that have come are multiplied by it
  std::int64_t loop_guard = 0;  // a hypothesis ends when its last n-gram has come so often in a row; 0: off
};

// Draws tokens instead of taking the best ones.
struct Sampling {
  double temperature = 1.0;
  std::int64_t top_k = 0;  // only the best k tokens; 0: all
  double top_p = 1.0;      // only the best tokens that have this share of the probability together
  std::uint64_t seed = 0;
  std::uint64_t first_sentence = 0;  // number of the call's first sentence; each number has draws of its own
};

struct DecodingOptions {
  std::int64_t beam_size = 1;
  std::int64_t n_best = 1;
  double length_penalty = 1.0;  // exponent of the length in the score
  std::int64_t max_length = 0;  // tokens with the end token; 0: from the next two
  double max_length_ratio = 2.0;
  std::int64_t max_length_extra = 10;
  std::int64_t max_batch_tokens = 4096;  // source tokens times beam that are worked on together
  bool shortlist =
      true;  // look only at tokens that may translate the source's, where the model has such a list
  BeamRules rules;
  Constraints constraints;
  std::optional<Sampling> sampling;
  bool attention = false;             // keep the attention of every token
  std::int64_t attention_layer = -1;  // of this decoder layer; -1: the last
  Control control;

  // Hypotheses of a sentence that live at the same time: those of the beam, or as many samples as are wanted.
  std::size_t lanes() const { return static_cast<std::size_t>(sampling ? n_best : beam_size); }
  bool keeps_attention() const { return attention || rules.coverage_penalty > 0.0; }
};

// Throws OptionError, naming the option, what it is and what it may be.
void check(const DecodingOptions& options, const Architecture& architecture);

// Most and fewest tokens, end token included, that a translation of `source_tokens` tokens may have.
std::size_t length_cap(const DecodingOptions& options, std::size_t max_positions, std::size_t source_tokens);
std::size_t length_floor(const Constraints& constraints, std::size_t cap, std::size_t source_tokens);

}  // namespace kserve
