#include "engine/sentence_job.h"

#include <utility>

namespace kserve {

SentenceJob::Parts::Parts(const SentenceJob& job, const Model& model, Arena& arena)
    : state(model, {job.task_.source_tokens, job.request_.options.lanes(), job.task_.cap}, arena),
      search(job.request_.options, model, job.task_, arena) {
  if (!job.listed_.empty()) shortlist.emplace(model, job.listed_, arena);
}

SentenceJob::SentenceJob(const Model& model, const Request& request, Task task,
                         std::vector<std::int32_t> source, MemoryPool& pool)
    : request_(request), task_(std::move(task)), source_(std::move(source)), full_(model.vocabulary()) {
  // A given target is scored against the whole vocabulary.
  if (model.weights.shortlist.exists() && request.options.shortlist && !task_.ends_after_prefix) {
    listed_ = shortlist_tokens(model.weights, source_, task_.prefix);
  }
  Arena counting;
  Parts(*this, model, counting);
  lease_.emplace(pool.lease(counting.peak()));
  parts_.emplace(*this, model, lease_->arena());
  parts_->search.begin();
  if (parts_->shortlist) parts_->shortlist->fill();
}

void SentenceJob::poll() {
  if (is_over_) return;
  try {
    request_.watch.check();
    if (request_.watch.expired()) parts_->search.stop();
  } catch (...) {
    fail();
  }
}

std::vector<Hypothesis> SentenceJob::result() const {
  if (failure_) std::rethrow_exception(failure_);
  return parts_->search.result();
}

}  // namespace kserve
