#include "engine/batcher.h"

#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <system_error>
#include <utility>

#include "engine/error.h"
#include "engine/running_batch.h"

namespace kserve {
namespace {

// Lowers this thread's priority: whoever shares the processors and hands over what it makes, such as an event
// loop, waits for milliseconds otherwise. Where it is not allowed, nothing is lost.
void give_way() {
  constexpr int kSteps = 5, kLowest = 19;
  const auto thread = static_cast<id_t>(syscall(SYS_gettid));
  const int own = getpriority(PRIO_PROCESS, thread);
  setpriority(PRIO_PROCESS, thread, std::min(own + kSteps, kLowest));
}

using Clock = std::chrono::steady_clock;

// Source tokens times hypotheses that a thread works on together, and by how much the first sentence of a
// request that has none there may exceed it. Wider steps make no more tokens a second, they only last longer,
// and whoever comes meanwhile waits for the end of one.
constexpr std::size_t kBudget = 1024;
constexpr std::size_t kReserve = 512;
// Hypotheses that large requests have in a step, however few those of small ones are.
constexpr std::size_t kFewRows = 4;
// Source tokens that are encoded between two steps; everybody at work waits for them.
constexpr std::size_t kTokensAtOnce = 64;

}  // namespace

// A request.
struct Batcher::Entry {
  Entry(Id number, Submission given)
      : id(number), submission(std::move(given)), decoding(submission.options), request(decoding) {}

  Id id;
  Submission submission;
  DecodingOptions decoding;
  Request request;
  std::size_t next = 0;  // the first sentence that no thread has begun
  std::size_t unfinished = submission.sources.size();
  Clock::time_point arrived = Clock::now();
  const bool is_large = cost(submission.sources, decoding) > kBudget;  // it fills a thread on its own

  Call call() const { return {submission.sources, submission.prefixes, false}; }
  bool has_more() const { return next < submission.sources.size(); }
  bool is_forgotten() const { return decoding.control.cancel->cancelled(); }
};

// A sentence in a thread's batch.
struct Batcher::Running {
  EntryPointer entry;
  std::size_t index;  // in its request
  std::size_t cost;
  double queue_seconds;
  std::unique_ptr<SentenceJob> job;  // null until begin()

  std::size_t source_tokens() const { return entry->submission.sources[index].size(); }
};

struct Batcher::Worker {
  Worker(const Model& model, MemoryPool& pool) : batch(model, pool) {}

  RunningBatch batch;
  std::vector<Running> running;
  std::size_t used = 0;  // of the budget

  bool has(const EntryPointer& entry) const {
    return std::any_of(running.begin(), running.end(),
                       [&](const Running& one) { return one.entry == entry; });
  }
};

Batcher::Batcher(const Engine& engine, std::size_t threads)
    : engine_(engine),
      thread_count_(threads),
      descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      process_(getpid()) {
  if (descriptor_ < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
}

Batcher::~Batcher() {
  {
    const std::lock_guard<std::mutex> guard(lock_);
    stopping_ = true;
    for (auto& [id, entry] : entries_) entry->decoding.control.cancel->cancel();
  }
  arrival_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  close(descriptor_);
}

void Batcher::start_threads() {
  for (std::size_t i = 0; i < thread_count_; ++i) {
    workers_.push_back(std::make_unique<Worker>(engine_.model(), engine_.pool()));
    threads_.emplace_back([this, worker = workers_.back().get()] { work(*worker); });
  }
}

Batcher::Id Batcher::submit(Submission submission) {
  if (getpid() != process_) {
    throw OptionError("the batcher's threads are in the process that forked this one; make one here");
  }
  submission.options.control = {};
  if (submission.tells_tokens && submission.options.lanes() != 1) {
    throw OptionError("tokens are told of one hypothesis at a time only (beam_size 1 and n_best 1), not of " +
                      std::to_string(submission.options.lanes()));
  }
  check({submission.sources, submission.prefixes, false}, submission.options, engine_.architecture());
  std::unique_lock<std::mutex> guard(lock_);
  const Id id = ++last_id_;
  const std::size_t count = submission.sources.size();
  submission.options.control.cancel = std::make_shared<CancelToken>();
  if (submission.tells_tokens) {
    submission.options.control.on_token = [this, id](std::int64_t sentence, std::int32_t token) {
      tell({Event::Kind::kToken, id, static_cast<std::size_t>(sentence), token, {}, {}, 0.0});
    };
  }
  if (count == 0) return id;
  const auto entry = std::make_shared<Entry>(id, std::move(submission));
  entries_[id] = entry;
  turns_.push_back(entry);
  stats_.queued_sentences += count;
  for (const Sentence& source : entry->submission.sources) stats_.queued_tokens += source.size();
  if (threads_.empty()) start_threads();
  guard.unlock();  // whoever is woken wants it
  if (count == 1) {
    arrival_.notify_one();
  } else {
    arrival_.notify_all();
  }
  return id;
}

void Batcher::cancel(Id request) {
  const std::lock_guard<std::mutex> guard(lock_);
  const auto found = entries_.find(request);
  if (found == entries_.end()) return;
  Entry& entry = *found->second;
  entry.decoding.control.cancel->cancel();
  const std::vector<Sentence>& sources = entry.submission.sources;
  for (; entry.next < sources.size(); ++entry.next) {
    --stats_.queued_sentences;
    stats_.queued_tokens -= sources[entry.next].size();
  }
  entries_.erase(found);
}

// The first request in turn whose next sentence this thread has room for, or null. It goes behind the others.
Batcher::EntryPointer Batcher::next_entry(const Worker& worker) {
  for (std::size_t tried = 0; tried < turns_.size();) {
    const EntryPointer entry = turns_.front();
    turns_.pop_front();
    if (!entry->has_more()) continue;
    turns_.push_back(entry);
    ++tried;
    const std::size_t added = cost(entry->submission.sources[entry->next].size(), entry->decoding);
    const std::size_t limit = worker.has(entry) ? kBudget : kBudget + kReserve;
    if (worker.running.empty() || worker.used + added <= limit) return entry;
  }
  return nullptr;
}

void Batcher::take(Worker& worker, const EntryPointer& entry) {
  const double waited = std::chrono::duration<double>(Clock::now() - entry->arrived).count();
  const std::size_t index = entry->next++, tokens = entry->submission.sources[index].size();
  worker.running.push_back({entry, index, cost(tokens, entry->decoding), waited, nullptr});
  worker.used += worker.running.back().cost;
  --stats_.queued_sentences;
  stats_.queued_tokens -= tokens;
  ++stats_.running_sentences;
}

// Takes what there is room for, but no more than this thread's share of what waits; waits when there is
// nothing to do. False when the thread is to end.
bool Batcher::admit(Worker& worker) {
  std::unique_lock<std::mutex> guard(lock_);
  while (!stopping_) {
    std::size_t share = (stats_.queued_sentences + thread_count_ - 1) / thread_count_;
    std::size_t room = kTokensAtOnce;
    for (EntryPointer entry; share > 0 && room > 0 && (entry = next_entry(worker)); --share) {
      take(worker, entry);
      room -= std::min(room, worker.running.back().source_tokens());
    }
    if (!worker.running.empty()) return true;
    guard.unlock();
    worker.batch.rest();
    guard.lock();
    if (!stopping_ && stats_.queued_sentences == 0) arrival_.wait(guard);
  }
  return false;
}

// Encodes the sentences that were taken last.
void Batcher::begin(Worker& worker) {
  std::vector<SentenceJob*> jobs;
  for (Running& one : worker.running) {
    if (one.job) continue;
    const Entry& entry = *one.entry;
    one.job = std::make_unique<SentenceJob>(
        engine_.model(), entry.request,
        make_task(entry.call(), entry.decoding, engine_.architecture(), one.index),
        narrow(entry.submission.sources[one.index]), engine_.pool());
    jobs.push_back(one.job.get());
  }
  worker.batch.prepare(jobs);
}

// The sentences that take the next step: all of small requests, and of large ones, however many these are,
// the oldest ones with no more hypotheses than the small requests have together.
std::vector<Batcher::Running*> Batcher::choose(Worker& worker) const {
  std::size_t small = 0;
  for (const Running& one : worker.running) small += one.entry->is_large ? 0 : one.job->rows();
  std::size_t room = small == 0 ? std::numeric_limits<std::size_t>::max() : std::max(small, kFewRows);
  std::vector<Running*> chosen;
  for (Running& one : worker.running) {
    const std::size_t count = one.job->rows();
    if (count == 0 || (one.entry->is_large && room == 0)) continue;
    if (one.entry->is_large) room -= std::min(room, count);
    chosen.push_back(&one);
  }
  return chosen;
}

void Batcher::step(Worker& worker) {
  std::vector<SentenceJob*> jobs;
  std::size_t rows = 0;
  for (Running& one : worker.running) one.job->poll();
  for (const Running* one : choose(worker)) {
    jobs.push_back(one->job.get());
    rows += one->job->rows();
  }
  if (!jobs.empty()) worker.batch.step(jobs);
  const std::lock_guard<std::mutex> guard(lock_);
  ++stats_.steps;
  stats_.rows += rows;
  stats_.running_rows = rows;
}

void Batcher::work(Worker& worker) {
  give_way();
  while (admit(worker)) {
    try {
      begin(worker);
      step(worker);
      deliver(worker);
    } catch (const std::exception& problem) {
      // Not a sentence's own failure: memory is short. Everything at work here fails, and the thread goes on.
      for (const Running& one : worker.running) {
        tell({Event::Kind::kFailure, one.entry->id, one.index, 0, {}, problem.what(), 0.0});
        cancel(one.entry->id);
        leave(one);
      }
      worker.running.clear();
      worker.used = 0;
    }
  }
  worker.running.clear();
}

// A request whose last sentence leaves is known no more.
void Batcher::leave(const Running& one) {
  const std::lock_guard<std::mutex> guard(lock_);
  --stats_.running_sentences;
  stats_.source_tokens += one.source_tokens();
  if (--one.entry->unfinished == 0) entries_.erase(one.entry->id);
}

// Tells what has ended, and forgets it.
void Batcher::deliver(Worker& worker) {
  for (std::size_t i = 0; i < worker.running.size();) {
    Running& one = worker.running[i];
    if (one.job->rows() > 0) {
      ++i;
      continue;
    }
    Event event{Event::Kind::kSentence, one.entry->id, one.index, 0, {}, {}, one.queue_seconds};
    try {
      event.hypotheses = one.job->result();
      const std::lock_guard<std::mutex> guard(lock_);
      ++stats_.sentences;
      if (!event.hypotheses.empty()) stats_.target_tokens += event.hypotheses[0].tokens.size();
    } catch (const Error& problem) {
      event.kind = Event::Kind::kFailure;
      event.message = problem.what();
    }
    leave(one);
    worker.used -= one.cost;
    const bool failed = event.kind == Event::Kind::kFailure;
    if (!one.entry->is_forgotten()) tell(std::move(event));
    if (failed) cancel(one.entry->id);
    worker.running.erase(worker.running.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void Batcher::tell(Event event) {
  {
    const std::lock_guard<std::mutex> guard(events_lock_);
    events_.push_back(std::move(event));
    if (events_.size() > 1) return;
  }
  // Not under the lock: the one who is woken takes it at once, and has the processor before this thread does.
  const std::uint64_t one = 1;
  // It cannot fail: the counter is far from full.
  const ssize_t written = write(descriptor_, &one, sizeof one);
  static_cast<void>(written);
}

std::vector<Batcher::Event> Batcher::collect() {
  std::vector<Event> events;
  {
    const std::lock_guard<std::mutex> guard(events_lock_);
    events.swap(events_);
    std::uint64_t count = 0;
    const ssize_t got = read(descriptor_, &count, sizeof count);
    static_cast<void>(got);  // nothing to read when nothing has happened
  }
  return events;
}

Batcher::Stats Batcher::stats() const {
  const std::lock_guard<std::mutex> guard(lock_);
  return stats_;
}

}  // namespace kserve
