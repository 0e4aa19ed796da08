// One thread's work on sentences that join and leave at any step (continuous batching), so that none waits
// for a longer one: encoding those that come, and moving all of them on together.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "engine/encoder.h"
#include "engine/memory_pool.h"
#include "engine/output.h"
#include "engine/sentence_job.h"

namespace kserve {

class RunningBatch {
 public:
  // Source tokens that the encoder takes at once; a longer sentence is taken alone.
  static constexpr std::size_t kEncoderTokens = 512;

  // Model and pool must outlive the batch.
  RunningBatch(const Model& model, MemoryPool& pool);
  ~RunningBatch();

  // Encodes the sentences; each may then take steps. What fails is the sentence's own.
  void prepare(const std::vector<SentenceJob*>& jobs);

  // Moves every hypothesis of these sentences one token on. What fails is the sentence's own.
  void step(const std::vector<SentenceJob*>& jobs);

  // Gives the thread's own memory back until there is work again.
  void rest();

 private:
  struct Workspace;
  // What the workspace must have room for.
  struct Needs {
    std::size_t rows = 0, longest = 0, encoder_rows = 0, best = 0;
    bool all = false;
  };

  void make_room(const Needs& needs);
  void encode_together(const std::vector<SentenceJob*>& jobs);
  void take_rows(const std::vector<SentenceJob*>& jobs);
  void rank_rows(const float* states);
  void rank_together(std::size_t first, std::size_t count, const float* states);

  const Model& model_;
  MemoryPool& pool_;
  Needs needs_;
  std::unique_ptr<Workspace> workspace_;
  std::vector<StepRow> rows_;            // of the step at work
  std::vector<SentenceJob*> row_owner_;  // the sentence of each
};

}  // namespace kserve
