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
    // No thread takes more than its share, so that all have work.
    const std::size_t share = (cost(sources, options) + threads - 1) / threads;
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
class Engine::Part {
 public:
  Part(const Engine& engine, const Call& call, Request& request, Queue& queue)
      : engine_(engine), call_(call), request_(request), queue_(queue), batch_(engine.model_, engine.pool_) {}

  void run(Results& results) {
    for (take(); !jobs_.empty() && !request_.watch.failed(); take()) {
      batch_.prepare(arrived_);
      arrived_.clear();
      step();
      hand_over(results);
    }
  }

 private:
  // Whether so many tokens and hypotheses more stay within so many quarters of what is worked on together.
  // Hypotheses beyond a chunk would only be another pass over all weights, with their memory beside it.
  bool fits(std::size_t tokens, std::size_t rows, std::size_t quarters) const {
    rows += jobs_.size() * request_.options.lanes();
    return jobs_.empty() ||
           ((used_ + tokens) * 4 <= queue_.limit * quarters && rows * 4 <= kChunkRows * quarters);
  }

  void take() {
    // New ones are encoded together: it waits until a good part is free.
    if (!fits(0, 0, 3)) return;
    const std::lock_guard<std::mutex> guard(queue_.lock);
    for (; queue_.next < queue_.order.size(); ++queue_.next) {
      const std::size_t index = queue_.order[queue_.next];
      const std::size_t added = cost(call_.sources[index].size(), request_.options);
      if (!fits(added, request_.options.lanes(), 4)) return;
      used_ += added;
      Task task = make_task(call_, request_.options, engine_.architecture(), index);
      jobs_.push_back(std::make_unique<SentenceJob>(engine_.model_, request_, std::move(task),
                                                    narrow(call_.sources[index]), engine_.pool_));
      arrived_.push_back(jobs_.back().get());
    }
  }

  void step() {
    live_.clear();
    for (auto& job : jobs_) {
      job->poll();
      if (job->rows() > 0) live_.push_back(job.get());
    }
    if (!live_.empty()) batch_.step(live_);
  }

  // Results of the sentences that are done, which leave.
  void hand_over(Results& results) {
    for (std::size_t i = 0; i < jobs_.size();) {
      if (jobs_[i]->rows() > 0) {
        ++i;
        continue;
      }
      const std::size_t index = jobs_[i]->task().index;
      results[index] = jobs_[i]->result();
      used_ -= cost(call_.sources[index].size(), request_.options);
      jobs_.erase(jobs_.begin() + static_cast<std::ptrdiff_t>(i));
    }
  }

  const Engine& engine_;
  const Call& call_;
  Request& request_;
  Queue& queue_;
  RunningBatch batch_;
  std::vector<std::unique_ptr<SentenceJob>> jobs_;
  std::vector<SentenceJob*> live_, arrived_;
  std::size_t used_ = 0;  // cost of the jobs
};

Engine::Results Engine::run(const Call& call, const DecodingOptions& options) const {
  Results results(call.sources.size());
  Request request(options);
  const std::size_t workers = std::max(std::size_t{1}, std::min(threads_, call.sources.size()));
  Queue queue(call.sources, options, workers);
  parallel_for(workers, workers, [&](std::size_t) {
    try {
      Part(*this, call, request, queue).run(results);
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
