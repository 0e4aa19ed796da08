// The engine: checks the sentences of a call, cuts them into groups, and lets threads decode the groups.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/beam.h"
#include "engine/layers.h"
#include "engine/workspace.h"

namespace kserve {

using Sentence = std::vector<std::int64_t>;  // token ids, the end id last

class Engine {
 public:
  // The tensors must outlive the engine. isa: instruction set by name, empty for the best of this machine.
  Engine(const Architecture& architecture, const TensorMap& tensors, const std::string& isa,
         std::int64_t threads);

  // The n_best translations of every sentence, best first. May be called from several threads at once. What a
  // sentence becomes does not depend on the others, on their order or on the number of threads.
  std::vector<std::vector<Hypothesis>> translate(const std::vector<Sentence>& sources,
                                                 const DecodingOptions& options) const;

  // The encoder's states of a sentence, (tokens, d).
  std::vector<float> encode(const Sentence& source) const;

  const Architecture& architecture() const { return model_.weights.architecture; }
  const char* isa() const { return model_.table->name; }
  std::size_t threads() const { return threads_; }
  std::size_t workspace_bytes() const { return pool_.bytes(); }

 private:
  // Indices of sentences that are decoded together.
  using Group = std::vector<std::size_t>;

  void check_source(const Sentence& source, std::size_t index) const;
  std::vector<Group> cut(const std::vector<Sentence>& sources, const DecodingOptions& options) const;

  std::size_t threads_;
  Model model_;
  mutable WorkspacePool pool_;
};

}  // namespace kserve
