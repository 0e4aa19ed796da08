// One decoder step for all live hypotheses of a group of sentences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/layers.h"

namespace kserve {

// The hypotheses that take a step: all stand at the same position, sentences in ascending order.
struct StepRows {
  std::size_t position = 0;  // of the input token, 0 for the begin token
  std::size_t count = 0;
  const std::int32_t* tokens = nullptr;     // (count) last token of each
  const std::int32_t* sentences = nullptr;  // (count) index in the group
  // (count, ring): which row each hypothesis's ancestor was at position p, in slot p % ring; the current
  // position's slot holds the row itself.
  const std::int32_t* ancestors = nullptr;
};

class Decoder {
 public:
  // Takes memory for `max_rows` hypotheses over `source`; the encoder may run between construction and
  // attend_to(), in memory that follows.
  Decoder(const Model& model, const Packed& source, std::size_t max_rows, Arena& arena);

  // Keys and values of the cross-attention, once per group. states: (source rows, d).
  void attend_to(const Blocks& blocks, const float* states);

  // Buffers of the steps; they may lie where the encoder worked.
  void take_step_buffers(Arena& arena);

  // Moves every row one position on.
  void step(const Blocks& blocks, const StepRows& rows);

  // What the output layer reads of rows first ... first + count - 1 of the last step, (count, d), count <=
  // kChunkRows; good until the next call of a block.
  const float* hidden(const Blocks& blocks, std::size_t first, std::size_t count) const;

 private:
  void convolve(const Blocks& blocks, std::size_t layer, const StepRows& rows);
  void attend(const Blocks& blocks, std::size_t layer, const StepRows& rows);
  void fill_windows(std::size_t layer, const StepRows& rows, std::size_t first, std::size_t count,
                    const float** windows) const;
  float* keys(std::size_t layer) const { return memory_ + 2 * layer * source_.rows() * d_; }
  float* values(std::size_t layer) const { return keys(layer) + source_.rows() * d_; }

  const Model& model_;
  const Packed& source_;
  std::size_t max_rows_, d_, ring_;
  float* memory_ = nullptr;         // (layers, keys and values, source rows, d)
  float* probabilities_ = nullptr;  // (heads, longest source)
  float* x_ = nullptr;              // (max_rows, d)
  // Per layer (taps, max_rows, d): a ring of the last convolution inputs. Beam search moves the rows' indices
  // (StepRows::ancestors), never these numbers.
  std::vector<float*> history_;
};

}  // namespace kserve
