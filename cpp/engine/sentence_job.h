// A sentence on its way through the decoder: its memory, its search, and how it ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <vector>

#include "engine/control.h"
#include "engine/decoder.h"
#include "engine/memory_pool.h"
#include "engine/search.h"
#include "engine/shortlist.h"

namespace kserve {

// What the sentences of one call share.
struct Request {
  explicit Request(const DecodingOptions& decoding) : options(decoding), watch(options.control) {}
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  const DecodingOptions& options;
  Watch watch;
};

class SentenceJob {
 public:
  // Takes the memory that the sentence needs. The request must outlive the job. source: token ids, the end id
  // last.
  SentenceJob(const Model& model, const Request& request, Task task, std::vector<std::int32_t> source,
              MemoryPool& pool);
  SentenceJob(const SentenceJob&) = delete;
  SentenceJob& operator=(const SentenceJob&) = delete;

  const Request& request() const { return request_; }
  const Task& task() const { return task_; }
  const std::vector<std::int32_t>& source() const { return source_; }
  const SentenceState& state() const { return parts_->state; }
  Search& search() { return parts_->search; }

  // The tokens that the output layer looks at.
  const kernels::Vocabulary& vocabulary() const {
    return parts_->shortlist ? parts_->shortlist->get() : full_;
  }
  bool has_shortlist() const { return parts_->shortlist.has_value(); }

  // Hypotheses that take the next step.
  std::size_t rows() const { return is_over_ ? 0 : parts_->search.rows().count; }

  // Looks at the clock and at the caller's token; afterwards rows() may be 0.
  void poll();

  // Ends it with what is thrown at the moment.
  void fail() {
    failure_ = std::current_exception();
    is_over_ = true;
  }

  // Once rows() is 0: its translations, or what made it fail is thrown again.
  std::vector<Hypothesis> result() const;

 private:
  // Built twice with the same layout: to measure the memory, then to work in it.
  struct Parts {
    Parts(const SentenceJob& job, const Model& model, Arena& arena);
    SentenceState state;
    Search search;
    std::optional<ShortVocabulary> shortlist;
  };

  const Request& request_;
  Task task_;
  std::vector<std::int32_t> source_;
  std::vector<std::int32_t> listed_;  // tokens of the shortlist, empty where there is none
  kernels::Vocabulary full_;
  std::optional<MemoryPool::Lease> lease_;
  std::optional<Parts> parts_;
  std::exception_ptr failure_;
  bool is_over_ = false;
};

}  // namespace kserve
