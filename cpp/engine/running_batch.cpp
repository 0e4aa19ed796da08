#include "engine/running_batch.h"

#include <algorithm>
#include <optional>

namespace kserve {
namespace {

// Ends an encoder run that nobody waits for any more.
struct NobodyWaits {};

}  // namespace

// Built twice with the same layout: to measure the memory, then to work in it.
struct RunningBatch::Workspace {
  Workspace(const Model& model, const Needs& needs, Arena& arena)
      : scratch(take_scratch(model.weights, arena)), blocks(model, scratch) {
    const std::size_t mark = arena.mark();
    encoder = take_encoder_buffers(model, needs.encoder_rows, arena);
    arena.rewind(mark);  // sentences are encoded between two steps
    decoder.emplace(model, needs.rows, needs.longest, arena);
    output.emplace(model, needs.best, needs.all, arena);
  }

  std::optional<MemoryPool::Lease> lease;
  Scratch scratch;
  Blocks blocks;
  EncoderBuffers encoder;
  std::optional<Decoder> decoder;
  std::optional<OutputLayer> output;
};

RunningBatch::RunningBatch(const Model& model, MemoryPool& pool) : model_(model), pool_(pool) {}
RunningBatch::~RunningBatch() = default;

void RunningBatch::rest() {
  workspace_.reset();
  needs_ = {};
}

void RunningBatch::make_room(const Needs& needs) {
  if (workspace_ && needs.rows <= needs_.rows && needs.longest <= needs_.longest &&
      needs.encoder_rows <= needs_.encoder_rows && needs.best <= needs_.best && needs.all <= needs_.all) {
    return;
  }
  needs_ = {std::max(needs.rows, needs_.rows), std::max(needs.longest, needs_.longest),
            std::max(needs.encoder_rows, needs_.encoder_rows), std::max(needs.best, needs_.best),
            needs.all || needs_.all};
  workspace_.reset();
  Arena counting;
  Workspace(model_, needs_, counting);
  MemoryPool::Lease lease = pool_.lease(counting.peak());
  workspace_ = std::make_unique<Workspace>(model_, needs_, lease.arena());
  workspace_->lease.emplace(std::move(lease));
}

void RunningBatch::prepare(const std::vector<SentenceJob*>& jobs) {
  std::vector<SentenceJob*> together;
  std::size_t tokens = 0;
  for (SentenceJob* job : jobs) {
    job->poll();
    if (job->rows() == 0) continue;
    if (!together.empty() && tokens + job->source().size() > kEncoderTokens) {
      encode_together(together);
      together.clear();
      tokens = 0;
    }
    together.push_back(job);
    tokens += job->source().size();
  }
  if (!together.empty()) encode_together(together);
}

void RunningBatch::encode_together(const std::vector<SentenceJob*>& jobs) {
  Packed packed;
  for (const SentenceJob* job : jobs) packed.add(job->source());
  Needs needs;
  needs.encoder_rows = packed.rows();
  make_room(needs);
  const EncoderBuffers& buffers = workspace_->encoder;
  const auto somebody_waits = [&] {
    bool waits = false;
    for (SentenceJob* job : jobs) {
      job->poll();
      waits |= job->rows() > 0;
    }
    if (!waits) throw NobodyWaits();
  };
  try {
    encode(model_, workspace_->blocks, packed, buffers, somebody_waits);
  } catch (const NobodyWaits&) {
    return;
  }
  const std::size_t d = model_.weights.architecture.d_model;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    workspace_->decoder->attend_to(workspace_->blocks, buffers.x + packed.first[i] * d, jobs[i]->state());
  }
}

void RunningBatch::take_rows(const std::vector<SentenceJob*>& jobs) {
  Needs needs;
  rows_.clear();
  row_owner_.clear();
  for (SentenceJob* job : jobs) {
    Search& search = job->search();
    const SearchRows rows = search.rows();
    const std::size_t ring = search.ring();
    for (std::size_t r = 0; r < job->rows(); ++r) {
      rows_.push_back({&job->state(), rows.tokens[r], r, rows.position, rows.ancestors + r * ring, ring,
                       search.attention(r), search.attention_layer()});
      row_owner_.push_back(job);
    }
    const TokenRequest largest = search.largest_request();
    needs.best = std::max(needs.best, largest.best);
    needs.all |= largest.all;
    needs.longest = std::max(needs.longest, job->source().size());
  }
  needs.rows = rows_.size();
  make_room(needs);
}

void RunningBatch::step(const std::vector<SentenceJob*>& jobs) {
  take_rows(jobs);
  rank_rows(workspace_->decoder->step(workspace_->blocks, rows_));
  for (SentenceJob* job : jobs) {
    if (job->rows() == 0) continue;
    try {
      job->search().advance();
    } catch (...) {
      job->fail();
    }
  }
}

// Rows that look at the whole vocabulary are projected together, those with a shortlist sentence by sentence.
void RunningBatch::rank_rows(const float* states) {
  const auto is_alike = [](const SentenceJob* a, const SentenceJob* b) {
    return a == b || (!a->has_shortlist() && !b->has_shortlist());
  };
  for (std::size_t first = 0, end = 0; first < rows_.size(); first = end) {
    while (end < rows_.size() && end - first < kOutputRows && is_alike(row_owner_[first], row_owner_[end]))
      ++end;
    rank_together(first, end - first, states);
  }
}

void RunningBatch::rank_together(std::size_t first, std::size_t count, const float* states) {
  const std::size_t d = model_.weights.architecture.d_model;
  float* const hidden = workspace_->scratch.normed;
  workspace_->blocks.output_norm(states + first * d, count, hidden);
  std::size_t best = 0;
  for (std::size_t i = first; i < first + count; ++i) {
    best = std::max(best, row_owner_[i]->search().request().best);
  }
  workspace_->output->project(row_owner_[first]->vocabulary(), hidden, count, best);
  for (std::size_t i = 0; i < count; ++i) {
    SentenceJob& job = *row_owner_[first + i];
    if (job.rows() == 0) continue;  // another of its rows has failed
    try {
      job.search().rank(rows_[first + i].lane, workspace_->output->answer(i, job.search().request()));
    } catch (...) {
      job.fail();
    }
  }
}

}  // namespace kserve
