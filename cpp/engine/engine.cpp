#include "engine/engine.h"

#include <algorithm>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>

#include "engine/error.h"
#include "engine/parallel.h"
#include "engine/running_batch.h"
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

std::vector<std::int32_t> narrow(const Sentence& ids) {
  std::vector<std::int32_t> narrowed;
  for (std::int64_t id : ids) narrowed.push_back(static_cast<std::int32_t>(id));
  return narrowed;
}

const kernels::KernelTable& choose_table(const std::string& isa) {
  try {
    return kernels::choose(isa);
  } catch (const std::exception& problem) {
    throw OptionError(problem.what());
  }
}

}  // namespace

// The sentences of a call that no thread has taken yet, longest first: the last to begin are short ones.
struct Engine::Queue {
  Queue(const std::vector<Sentence>& sources, const DecodingOptions& options, std::size_t threads)
      : order(sources.size()) {
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return sources[a].size() > sources[b].size(); });
    std::size_t total = 0;
    for (const Sentence& source : sources) total += cost(source, options);
    // No thread takes more than its share, so that all have work.
    const std::size_t share = (total + threads - 1) / threads;
    limit = std::min(static_cast<std::size_t>(options.max_batch_tokens), std::max(share, std::size_t{1}));
  }

  std::mutex lock;
  std::vector<std::size_t> order;
  std::size_t next = 0;
  std::size_t limit;  // cost of the sentences that one thread works on together
};

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

// One thread's part of a call: takes sentences while there is room, and moves those it has on together.
void Engine::work(const Call& call, Request& request, Queue& queue, Results& results) const {
  RunningBatch batch(model_, pool_);
  std::vector<std::unique_ptr<SentenceJob>> jobs;
  std::vector<SentenceJob*> live, arrived;
  std::size_t used = 0;
  const auto take = [&] {
    // New ones are encoded together: it waits until a good part is free.
    if (!jobs.empty() && used > queue.limit - queue.limit / 4) return;
    const std::lock_guard<std::mutex> guard(queue.lock);
    for (; queue.next < queue.order.size(); ++queue.next) {
      const std::size_t index = queue.order[queue.next], added = cost(call.sources[index], request.options);
      if (!jobs.empty() && used + added > queue.limit) return;
      used += added;
      jobs.push_back(std::make_unique<SentenceJob>(model_, request, task(call, request.options, index),
                                                   narrow(call.sources[index]), pool_));
      arrived.push_back(jobs.back().get());
    }
  };
  for (take(); !jobs.empty() && !request.watch.failed(); take()) {
    batch.prepare(arrived);
    arrived.clear();
    live.clear();
    for (auto& job : jobs) {
      job->poll();
      if (job->rows() > 0) live.push_back(job.get());
    }
    if (!live.empty()) batch.step(live);
    for (std::size_t i = 0; i < jobs.size();) {
      if (jobs[i]->rows() > 0) {
        ++i;
        continue;
      }
      const std::size_t index = jobs[i]->task().index;
      results[index] = jobs[i]->result();
      used -= cost(call.sources[index], request.options);
      jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }
}

Engine::Results Engine::run(const Call& call, const DecodingOptions& options) const {
  Results results(call.sources.size());
  Request request(options);
  const std::size_t workers = std::max(std::size_t{1}, std::min(threads_, call.sources.size()));
  Queue queue(call.sources, options, workers);
  parallel_for(workers, workers, [&](std::size_t) {
    try {
      work(call, request, queue, results);
    } catch (...) {
      request.watch.fail();
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
  Packed packed;
  packed.add(narrow(source));
  const std::size_t d = architecture().d_model;
  const auto lay_out = [&](Arena& arena) {
    const Scratch scratch = take_scratch(model_.weights, arena);
    return std::make_pair(scratch, take_encoder_buffers(model_, packed.rows(), arena));
  };
  Arena counting;
  lay_out(counting);
  MemoryPool::Lease memory = pool_.lease(counting.peak());
  const auto [scratch, buffers] = lay_out(memory.arena());
  kserve::encode(model_, Blocks(model_, scratch), packed, buffers, [] {});
  std::vector<float> states(packed.rows() * d);
  for (std::size_t r = 0; r < packed.rows(); ++r) {
    model_.table->layer_norm(buffers.x + r * d, d, nullptr, nullptr, states.data() + r * d);
  }
  return states;
}

}  // namespace kserve
