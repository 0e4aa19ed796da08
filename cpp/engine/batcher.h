// Sentences of many requests, decoded by threads of its own that never call back: what happens is collected.
//
// Each thread has a batch that sentences join and leave at every step. Requests take turns, a step is short,
// and in it large requests have no more hypotheses than the small ones beside them, so that a thousand
// sentences of one do not slow down the single one of another.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/engine.h"

namespace kserve {

class Batcher {
 public:
  using Id = std::uint64_t;

  struct Submission {
    std::vector<Sentence> sources;
    std::vector<Sentence> prefixes;
    DecodingOptions options;    // its control is not used
    bool tells_tokens = false;  // greedy and single samples only
  };

  // Something that has happened to a request.
  struct Event {
    enum class Kind : std::uint8_t { kToken, kSentence, kFailure } kind;
    Id request;
    std::size_t sentence = 0;
    std::int32_t token = 0;              // kToken
    std::vector<Hypothesis> hypotheses;  // kSentence
    std::string message;                 // kFailure, which ends the request
    double queue_seconds = 0.0;          // kSentence: how long it waited before it was begun
  };

  struct Stats {
    std::size_t queued_sentences = 0, queued_tokens = 0;  // source tokens that no thread has begun
    std::size_t running_sentences = 0, running_rows = 0;  // of the last step of every thread
    std::uint64_t steps = 0, rows = 0;                    // decoder steps so far, and hypotheses in them
    std::uint64_t sentences = 0, source_tokens = 0, target_tokens = 0;  // done
  };

  // The engine must outlive the batcher. No thread starts before the first submission.
  Batcher(const Engine& engine, std::size_t threads);
  // Ends the threads within a step; what is not done is lost.
  ~Batcher();
  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Checks the sentences (InputError, OptionError) and queues them.
  Id submit(Submission submission);

  // Forgets a request: its sentences end within a step and nothing more is told about it.
  void cancel(Id request);

  // What has happened since the last call, in order.
  std::vector<Event> collect();

  // A file descriptor that is readable while there is something to collect (eventfd(2)).
  int descriptor() const { return descriptor_; }

  Stats stats() const;

 private:
  struct Entry;
  struct Running;
  struct Worker;
  using EntryPointer = std::shared_ptr<Entry>;

  void start_threads();
  void work(Worker& worker);
  bool admit(Worker& worker);
  EntryPointer next_entry(const Worker& worker);
  void take(Worker& worker, const EntryPointer& entry);
  void begin(Worker& worker);
  void step(Worker& worker);
  std::vector<Running*> choose(Worker& worker) const;
  void deliver(Worker& worker);
  void leave(const Running& one);
  void tell(Event event);

  const Engine& engine_;
  std::size_t thread_count_;
  int descriptor_;
  int process_;

  mutable std::mutex lock_;
  std::condition_variable arrival_;
  bool stopping_ = false;
  Id last_id_ = 0;
  std::map<Id, EntryPointer> entries_;
  std::deque<EntryPointer> turns_;  // requests with sentences that wait, the one whose turn it is first
  Stats stats_;

  mutable std::mutex events_lock_;
  std::vector<Event> events_;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace kserve
