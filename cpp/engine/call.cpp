#include "engine/call.h"

#include <algorithm>
#include <string>

#include "engine/error.h"

namespace kserve {
namespace {

// A very short sentence costs about as much memory, in histories and search, as one of this many tokens.
constexpr std::size_t kLeastCost = 16;

void check_ids(const Sentence& ids, const std::string& where, const Architecture& architecture) {
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0 || ids[t] >= static_cast<std::int64_t>(architecture.vocab_size)) {
      throw InputError(where + " has id " + std::to_string(ids[t]) + " at place " + std::to_string(t) +
                       ", wanted 0 to " + std::to_string(architecture.vocab_size - 1));
    }
  }
}

void check_prefixes(const Call& call, const DecodingOptions& options, const Architecture& architecture) {
  if (!call.starts.empty() && call.starts.size() != call.sources.size()) {
    throw InputError("there are " + std::to_string(call.starts.size()) + " prefixes for " +
                     std::to_string(call.sources.size()) + " sources, wanted one for each, or none");
  }
  for (std::size_t i = 0; i < call.starts.size(); ++i) {
    const Sentence& prefix = call.starts[i];
    const std::string where = "prefix " + std::to_string(i);
    check_ids(prefix, where, architecture);
    if (std::any_of(prefix.begin(), prefix.end(), [](std::int64_t id) { return id <= kPaddingId; })) {
      throw InputError(where +
                       " holds an id of 0 to 3 (unknown, begin, end, padding), wanted ordinary tokens");
    }
    const std::size_t cap = length_cap(options, architecture.max_positions, call.sources[i].size());
    if (!prefix.empty() && prefix.size() >= cap) {
      throw OptionError(where + " has " + std::to_string(prefix.size()) + " tokens, but the translation of " +
                        std::to_string(call.sources[i].size()) + " source tokens may have " +
                        std::to_string(cap) + " with the end token; shorten it or raise max_length");
    }
  }
}

void check_targets(const Call& call, const Architecture& architecture) {
  if (call.starts.size() != call.sources.size()) {
    throw InputError("there are " + std::to_string(call.starts.size()) + " targets for " +
                     std::to_string(call.sources.size()) + " sources, wanted one for each");
  }
  for (std::size_t i = 0; i < call.starts.size(); ++i) {
    const Sentence& target = call.starts[i];
    const std::string where = "target " + std::to_string(i);
    check_ids(target, where, architecture);
    if (std::any_of(target.begin(), target.end(),
                    [](std::int64_t id) { return id > kUnknownId && id <= kPaddingId; })) {
      throw InputError(where +
                       " holds an id of 1 to 3 (begin, end, padding), wanted the tokens alone; the end "
                       "token is added");
    }
    if (target.size() + 1 >= architecture.max_positions) {
      throw InputError(where + " has " + std::to_string(target.size()) +
                       " tokens, but the model scores at most " +
                       std::to_string(architecture.max_positions - 2) + "; split it");
    }
  }
}

}  // namespace

void check_source(const Sentence& source, std::size_t index, const Architecture& architecture) {
  const std::string where = "source " + std::to_string(index);
  if (source.empty())
    throw InputError(where + " is empty; wanted token ids ending in " + std::to_string(kEndId));
  if (source.size() > architecture.max_positions) {
    throw InputError(where + " has " + std::to_string(source.size()) +
                     " tokens, but the model takes at most " + std::to_string(architecture.max_positions) +
                     "; split it");
  }
  check_ids(source, where, architecture);
}

void check(const Call& call, const DecodingOptions& options, const Architecture& architecture) {
  check(options, architecture);
  for (std::size_t i = 0; i < call.sources.size(); ++i) check_source(call.sources[i], i, architecture);
  if (call.ends_after_start) {
    check_targets(call, architecture);
  } else {
    check_prefixes(call, options, architecture);
  }
}

std::vector<std::int32_t> narrow(const Sentence& ids) {
  std::vector<std::int32_t> narrowed;
  for (std::int64_t id : ids) narrowed.push_back(static_cast<std::int32_t>(id));
  return narrowed;
}

std::size_t cost(std::size_t source_tokens, const DecodingOptions& options) {
  return std::max(source_tokens, kLeastCost) * options.lanes();
}

std::size_t cost(const std::vector<Sentence>& sources, const DecodingOptions& options) {
  std::size_t sum = 0;
  for (const Sentence& source : sources) sum += cost(source.size(), options);
  return sum;
}

Task make_task(const Call& call, const DecodingOptions& options, const Architecture& architecture,
               std::size_t index) {
  Task task;
  task.index = index;
  task.source_tokens = call.sources[index].size();
  if (!call.starts.empty()) task.prefix = narrow(call.starts[index]);
  task.ends_after_prefix = call.ends_after_start;
  task.cap = call.ends_after_start ? task.prefix.size() + 1
                                   : length_cap(options, architecture.max_positions, task.source_tokens);
  task.floor = length_floor(options.constraints, task.cap, task.source_tokens);
  return task;
}

}  // namespace kserve
