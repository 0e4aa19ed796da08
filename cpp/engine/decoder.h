// One decoder step for the live hypotheses of any sentences, each at a position of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/arena.h"
#include "engine/layers.h"

namespace kserve {

// What the decoder keeps of one sentence, all in half precision: keys and values of the cross-attention, and
// a ring of the last convolution inputs of every hypothesis. Beam search moves indices, never these numbers.
class SentenceState {
 public:
  struct Sizes {
    std::size_t source_tokens;
    std::size_t lanes;      // hypotheses at a time, at most
    std::size_t positions;  // target tokens, at most
  };

  SentenceState(const Model& model, const Sizes& sizes, Arena& arena);

  std::size_t source_tokens() const { return sizes_.source_tokens; }
  std::uint16_t* keys(std::size_t layer) const { return memory_ + 2 * layer * sizes_.source_tokens * d_; }
  std::uint16_t* values(std::size_t layer) const { return keys(layer) + sizes_.source_tokens * d_; }

  // The convolution inputs of a layer: (ring(layer), lanes, d); position p is in slot p % ring.
  std::uint16_t* history(std::size_t layer, std::size_t slot, std::size_t lane) const {
    return history_[layer].first + (slot * sizes_.lanes + lane) * d_;
  }
  std::size_t ring(std::size_t layer) const { return history_[layer].slots; }

 private:
  struct Ring {
    std::uint16_t* first;
    std::size_t slots;
  };

  Sizes sizes_;
  std::size_t d_;
  std::uint16_t* memory_;  // (layers, keys and values, source tokens, d)
  std::vector<Ring> history_;
};

// A hypothesis that takes a step.
struct StepRow {
  const SentenceState* sentence;
  std::int32_t token;             // its last one
  std::size_t lane;               // its row in the sentence
  std::size_t position;           // of the token, 0 for the begin token
  const std::int32_t* ancestors;  // (ring) which lane its ancestor had at position p, in slot p % ring
  std::size_t ring;
  float* attention;  // where to put the attention of one layer, averaged over heads, (source), or null
  std::size_t attention_layer;
};

class Decoder {
 public:
  // max_rows: hypotheses in one step; longest: source tokens of a sentence.
  Decoder(const Model& model, std::size_t max_rows, std::size_t longest, Arena& arena);

  // Keys and values of one sentence. states: (source tokens, d), from the encoder.
  void attend_to(const Blocks& blocks, const float* states, const SentenceState& sentence) const;

  // Moves every row one position on. Returns the result, (rows, d), what the output norm reads.
  const float* step(const Blocks& blocks, const std::vector<StepRow>& rows);

 private:
  void convolve(const Blocks& blocks, std::size_t layer, const StepRow* rows, std::size_t count,
                float* x) const;
  void attend(const Blocks& blocks, std::size_t layer, const StepRow* rows, std::size_t count,
              float* x) const;

  const Model& model_;
  std::size_t d_;
  float* x_;              // (max_rows, d)
  float* probabilities_;  // (queries at once, heads, longest)
};

}  // namespace kserve
