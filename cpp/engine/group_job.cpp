#include "engine/group_job.h"

#include <algorithm>

namespace kserve {

EncoderBuffers take_encoder_buffers(const Model& model, const Packed& source, Arena& arena) {
  const std::size_t numbers = source.rows() * model.weights.architecture.d_model;
  return {arena.take<float>(numbers), arena.take<float>(numbers)};
}

GroupJob::GroupJob(const Model& model, const Packed& source, const DecodingOptions& options,
                   const std::vector<Task>& tasks, Arena& arena)
    : model_(model),
      source_(source),
      scratch_(take_scratch(model.weights, arena)),
      decoder_(model, source, source.sentences() * options.lanes(), arena),
      search_(options, model, tasks, arena) {
  const std::size_t mark = arena.mark();
  encoder_ = take_encoder_buffers(model, source, arena);
  arena.rewind(mark);  // the steps begin when the encoder has ended
  decoder_.take_step_buffers(arena);
  output_.emplace(model, search_.largest_request(), arena);
}

void GroupJob::run(const Watch& watch) {
  search_.begin();
  if (watch.expired()) {
    search_.stop();
    return;
  }
  const Blocks blocks(model_, scratch_);
  encode(model_, blocks, source_, encoder_, watch);
  decoder_.attend_to(blocks, encoder_.x);
  for (StepRows rows = search_.rows(); rows.count > 0 && !watch.failed(); rows = search_.rows()) {
    watch.check();
    if (watch.expired()) {
      search_.stop();
      return;
    }
    step(blocks, rows);
  }
}

void GroupJob::step(const Blocks& blocks, const StepRows& rows) {
  decoder_.step(blocks, rows);
  for (std::size_t r = 0; r < rows.count; r += kOutputRows) {
    const std::size_t count = std::min(kOutputRows, rows.count - r);
    std::size_t best = 0;
    for (std::size_t i = 0; i < count; ++i) best = std::max(best, search_.request(r + i).best);
    output_->project(decoder_.hidden(blocks, r, count), count, best);
    for (std::size_t i = 0; i < count; ++i) {
      search_.rank(r + i, output_->answer(i, search_.request(r + i)));
    }
  }
  search_.advance();
}

}  // namespace kserve
