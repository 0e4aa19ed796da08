#include "engine/scheduler.h"

#include <algorithm>
#include <numeric>

#include "engine/error.h"
#include "engine/group_job.h"
#include "engine/parallel.h"
#include "kernels/dispatch.h"

namespace kserve {
namespace {

constexpr std::int64_t kMaxThreads = 256;
// A very short sentence costs about as much memory, in histories and search, as one of this many tokens.
constexpr std::size_t kLeastCost = 16;

std::size_t cost(const Sentence& source, const DecodingOptions& options) {
  return std::max(source.size(), kLeastCost) * options.lanes();
}

std::size_t checked_threads(std::int64_t threads) {
  if (threads < 1 || threads > kMaxThreads) {
    throw OptionError("threads is " + std::to_string(threads) + ", wanted 1 to " +
                      std::to_string(kMaxThreads));
  }
  return static_cast<std::size_t>(threads);
}

Packed pack(const std::vector<Sentence>& sources, const std::vector<std::size_t>& group) {
  Packed packed;
  packed.first.push_back(0);
  for (std::size_t index : group) {
    for (std::int64_t id : sources[index]) packed.ids.push_back(static_cast<std::int32_t>(id));
    packed.first.push_back(packed.ids.size());
  }
  return packed;
}

std::size_t measure(const Model& model, const Packed& source, const DecodingOptions& options,
                    const std::vector<Task>& tasks) {
  Arena counting;
  const GroupJob job(model, source, options, tasks, counting);
  return counting.peak();
}

const kernels::KernelTable& choose_table(const std::string& isa) {
  try {
    return kernels::choose(isa);
  } catch (const std::exception& problem) {
    throw OptionError(problem.what());
  }
}

}  // namespace

Engine::Engine(const Architecture& architecture, const TensorMap& tensors, const std::string& isa,
               std::int64_t threads)
    : threads_(checked_threads(threads)),
      model_(make_model(bind_weights(architecture, tensors), choose_table(isa))) {}

void Engine::check_source(const Sentence& source, std::size_t index) const {
  const std::string where = "source " + std::to_string(index);
  if (source.empty())
    throw InputError(where + " is empty; wanted token ids ending in " + std::to_string(kEndId));
  if (source.size() > architecture().max_positions) {
    throw InputError(where + " has " + std::to_string(source.size()) +
                     " tokens, but the model takes at most " + std::to_string(architecture().max_positions) +
                     "; split it");
  }
  check_ids(source, where);
}

void Engine::check_ids(const Sentence& ids, const std::string& where) const {
  for (std::size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0 || ids[t] >= static_cast<std::int64_t>(architecture().vocab_size)) {
      throw InputError(where + " has id " + std::to_string(ids[t]) + " at place " + std::to_string(t) +
                       ", wanted 0 to " + std::to_string(architecture().vocab_size - 1));
    }
  }
}

void Engine::check_prefixes(const Call& call, const DecodingOptions& options) const {
  if (!call.starts.empty() && call.starts.size() != call.sources.size()) {
    throw InputError("there are " + std::to_string(call.starts.size()) + " prefixes for " +
                     std::to_string(call.sources.size()) + " sources, wanted one for each, or none");
  }
  for (std::size_t i = 0; i < call.starts.size(); ++i) {
    const Sentence& prefix = call.starts[i];
    const std::string where = "prefix " + std::to_string(i);
    check_ids(prefix, where);
    if (std::any_of(prefix.begin(), prefix.end(), [](std::int64_t id) { return id <= kPaddingId; })) {
      throw InputError(where +
                       " holds an id of 0 to 3 (unknown, begin, end, padding), wanted ordinary tokens");
    }
    const std::size_t cap = length_cap(options, architecture().max_positions, call.sources[i].size());
    if (!prefix.empty() && prefix.size() >= cap) {
      throw OptionError(where + " has " + std::to_string(prefix.size()) + " tokens, but the translation of " +
                        std::to_string(call.sources[i].size()) + " source tokens may have " +
                        std::to_string(cap) + " with the end token; shorten it or raise max_length");
    }
  }
}

void Engine::check_targets(const Call& call) const {
  if (call.starts.size() != call.sources.size()) {
    throw InputError("there are " + std::to_string(call.starts.size()) + " targets for " +
                     std::to_string(call.sources.size()) + " sources, wanted one for each");
  }
  for (std::size_t i = 0; i < call.starts.size(); ++i) {
    const Sentence& target = call.starts[i];
    const std::string where = "target " + std::to_string(i);
    check_ids(target, where);
    if (std::any_of(target.begin(), target.end(),
                    [](std::int64_t id) { return id > kUnknownId && id <= kPaddingId; })) {
      throw InputError(where +
                       " holds an id of 1 to 3 (begin, end, padding), wanted the tokens alone; the end "
                       "token is added");
    }
    if (target.size() + 1 >= architecture().max_positions) {
      throw InputError(where + " has " + std::to_string(target.size()) +
                       " tokens, but the model scores at most " +
                       std::to_string(architecture().max_positions - 2) + "; split it");
    }
  }
}

std::vector<Engine::Group> Engine::cut(const std::vector<Sentence>& sources,
                                       const DecodingOptions& options) const {
  Group order(sources.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Longest first: sentences of one group are of similar length, and the last group to start is a short one.
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sources[a].size() > sources[b].size(); });
  std::size_t total = 0;
  for (const Sentence& source : sources) total += cost(source, options);
  // With several threads a call is cut into at least as many groups, where it has as many sentences.
  const std::size_t share = (total + threads_ - 1) / threads_;
  const std::size_t limit = std::min(static_cast<std::size_t>(options.max_batch_tokens), share);
  std::vector<Group> groups;
  std::size_t filled = limit;
  for (std::size_t index : order) {
    const std::size_t added = cost(sources[index], options);
    if (groups.empty() || filled + added > limit) {
      groups.emplace_back();
      filled = 0;
    }
    groups.back().push_back(index);
    filled += added;
  }
  return groups;
}

Task Engine::task(const Call& call, const DecodingOptions& options, std::size_t index) const {
  Task task;
  task.index = index;
  task.source_tokens = call.sources[index].size();
  if (!call.starts.empty()) {
    for (std::int64_t id : call.starts[index]) task.prefix.push_back(static_cast<std::int32_t>(id));
  }
  task.ends_after_prefix = call.ends_after_start;
  task.cap = call.ends_after_start ? task.prefix.size() + 1
                                   : length_cap(options, architecture().max_positions, task.source_tokens);
  task.floor = length_floor(options.constraints, task.cap, task.source_tokens);
  return task;
}

std::vector<std::vector<Hypothesis>> Engine::run(const Call& call, const DecodingOptions& options) const {
  const std::vector<Group> groups = cut(call.sources, options);
  std::vector<std::vector<Hypothesis>> results(call.sources.size());
  Watch watch(options.control);
  parallel_for(groups.size(), threads_, [&](std::size_t g) {
    try {
      const Packed packed = pack(call.sources, groups[g]);
      std::vector<Task> tasks;
      for (std::size_t index : groups[g]) tasks.push_back(task(call, options, index));
      WorkspacePool::Lease workspace = pool_.lease();
      workspace.reserve(measure(model_, packed, options, tasks));
      GroupJob job(model_, packed, options, tasks, workspace.arena());
      job.run(watch);
      for (std::size_t s = 0; s < groups[g].size(); ++s) results[groups[g][s]] = job.result(s);
    } catch (...) {
      watch.fail();
      throw;
    }
  });
  return results;
}

std::vector<std::vector<Hypothesis>> Engine::translate(const std::vector<Sentence>& sources,
                                                       const DecodingOptions& options,
                                                       const std::vector<Sentence>& prefixes) const {
  const Call call{sources, prefixes, false};
  check(options, architecture());
  for (std::size_t i = 0; i < sources.size(); ++i) check_source(sources[i], i);
  check_prefixes(call, options);
  return run(call, options);
}

std::vector<std::vector<double>> Engine::score(const std::vector<Sentence>& sources,
                                               const std::vector<Sentence>& targets,
                                               const std::shared_ptr<CancelToken>& cancel) const {
  const Call call{sources, targets, true};
  for (std::size_t i = 0; i < sources.size(); ++i) check_source(sources[i], i);
  check_targets(call);
  DecodingOptions options;
  options.control.cancel = cancel;
  std::vector<std::vector<double>> scores;
  for (const std::vector<Hypothesis>& hypotheses : run(call, options)) {
    scores.push_back(hypotheses.front().token_log_probabilities);
  }
  return scores;
}

std::vector<float> Engine::encode(const Sentence& source) const {
  check_source(source, 0);
  const Packed packed = pack({source}, {0});
  const auto lay_out = [&](Arena& arena) {
    const Scratch scratch = take_scratch(model_.weights, arena);
    return std::make_pair(scratch, take_encoder_buffers(model_, packed, arena));
  };
  Arena counting;
  lay_out(counting);
  WorkspacePool::Lease workspace = pool_.lease();
  workspace.reserve(counting.peak());
  const auto [scratch, buffers] = lay_out(workspace.arena());
  const Control control;
  kserve::encode(model_, Blocks(model_, scratch), packed, buffers, Watch(control));
  return std::vector<float>(buffers.x, buffers.x + packed.rows() * architecture().d_model);
}

}  // namespace kserve
