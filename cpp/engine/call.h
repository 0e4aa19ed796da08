// The sentences of a call: checked, and made into tasks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/options.h"
#include "engine/search.h"
#include "engine/weights.h"

namespace kserve {

using Sentence = std::vector<std::int64_t>;  // token ids, the end id last

struct Call {
  const std::vector<Sentence>& sources;
  const std::vector<Sentence>&
      starts;             // tokens that each target must begin with; empty, or one for each source
  bool ends_after_start;  // starts are whole targets, to be scored
};

// Throws InputError or OptionError, naming the sentence, what is wrong with it and what was wanted.
void check(const Call& call, const DecodingOptions& options, const Architecture& architecture);
void check_source(const Sentence& source, std::size_t index, const Architecture& architecture);

Task make_task(const Call& call, const DecodingOptions& options, const Architecture& architecture,
               std::size_t index);

std::vector<std::int32_t> narrow(const Sentence& ids);

// What a sentence takes of a thread's budget (DecodingOptions::max_batch_tokens), and what several do.
std::size_t cost(std::size_t source_tokens, const DecodingOptions& options);
std::size_t cost(const std::vector<Sentence>& sources, const DecodingOptions& options);

}  // namespace kserve
