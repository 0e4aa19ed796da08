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

std::size_t checked_threads(std::int64_t threads) {
  if (threads < 1 || threads > kMaxThreads) {
    throw OptionError("threads is " + std::to_string(threads) + ", wanted 1 to " +
                      std::to_string(kMaxThreads));
  }
  return static_cast<std::size_t>(threads);
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
    for (const Sentence& source : sources) total += cost(source.size(), options);
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
      const std::size_t index = queue.order[queue.next],
                        added = cost(call.sources[index].size(), request.options);
      if (!jobs.empty() && used + added > queue.limit) return;
      used += added;
      jobs.push_back(std::make_unique<SentenceJob>(model_, request,
                                                   make_task(call, request.options, architecture(), index),
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
      used -= cost(call.sources[index].size(), request.options);
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
  check(call, options, architecture());
  return run(call, options);
}

std::vector<std::vector<double>> Engine::score(const std::vector<Sentence>& sources,
                                               const std::vector<Sentence>& targets,
                                               const std::shared_ptr<CancelToken>& cancel) const {
  const Call call{sources, targets, true};
  DecodingOptions options;
  options.control.cancel = cancel;
  check(call, options, architecture());
  std::vector<std::vector<double>> scores;
  for (const std::vector<Hypothesis>& hypotheses : run(call, options)) {
    scores.push_back(hypotheses.front().token_log_probabilities);
  }
  return scores;
}

std::vector<float> Engine::encode(const Sentence& source) const {
  check_source(source, 0, architecture());
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
