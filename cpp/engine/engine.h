// The engine: checks the sentences of a call and lets threads decode them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/call.h"
#include "engine/forms.h"
#include "engine/layers.h"
#include "engine/memory_pool.h"
#include "engine/sentence_job.h"

namespace kserve {

class Engine {
 public:
  // The tensors must outlive the engine. isa: instruction set by name, empty for the best of this machine.
  Engine(const Architecture& architecture, const TensorMap& tensors, const std::string& isa,
         std::int64_t threads);

  // The n_best translations of every sentence, best first. May be called from several threads at once. What a
  // sentence becomes does not depend on the others, on their order or on the number of threads.
  // prefixes: tokens that each target must begin with, or none at all.
  std::vector<std::vector<Hypothesis>> translate(const std::vector<Sentence>& sources,
                                                 const DecodingOptions& options,
                                                 const std::vector<Sentence>& prefixes = {}) const;

  // Log-probability of every token of the given targets (without the end token, which is added) and of the
  // end token.
  std::vector<std::vector<double>> score(const std::vector<Sentence>& sources,
                                         const std::vector<Sentence>& targets,
                                         const std::shared_ptr<CancelToken>& cancel = nullptr) const;

  // The encoder's states of a sentence, each normalised, (tokens, d).
  std::vector<float> encode(const Sentence& source) const;

  const Architecture& architecture() const { return model_.weights.architecture; }
  const char* isa() const { return model_.table->name; }
  std::size_t threads() const { return threads_; }
  std::vector<LayerForm> layer_forms() const { return kserve::layer_forms(model_); }
  std::size_t workspace_bytes() const { return pool_.bytes(); }
  const Model& model() const { return model_; }
  MemoryPool& pool() const { return pool_; }

 private:
  struct Queue;
  class Part;
  using Results = std::vector<std::vector<Hypothesis>>;

  Results run(const Call& call, const DecodingOptions& options) const;

  std::size_t threads_;
  Model model_;
  mutable MemoryPool pool_;
};

}  // namespace kserve
