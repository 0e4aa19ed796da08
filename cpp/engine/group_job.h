// Everything one group of sentences needs while it is decoded, and the loop over its steps.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "engine/beam.h"
#include "engine/decoder.h"
#include "engine/layers.h"
#include "engine/output.h"

namespace kserve {

EncoderBuffers take_encoder_buffers(const Model& model, const Packed& source, Arena& arena);

// Built twice with the same layout: to measure the memory, then to work in it.
class GroupJob {
 public:
  GroupJob(const Model& model, const Packed& source, const DecodingOptions& options,
           const std::vector<Task>& tasks, Arena& arena);

  // Decodes until every sentence is done, the deadline is over or another thread's group has failed (then the
  // results mean nothing). Throws CancelledError within one step of the caller's cancelling.
  void run(const Watch& watch);

  std::vector<Hypothesis> result(std::size_t sentence) const { return search_.result(sentence); }

 private:
  void step(const Blocks& blocks, const StepRows& rows);

  const Model& model_;
  const Packed& source_;
  Scratch scratch_;
  Decoder decoder_;
  Search search_;
  EncoderBuffers encoder_;
  std::optional<OutputLayer> output_;  // its memory lies where the encoder worked
};

}  // namespace kserve
