#include "engine/search.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "engine/error.h"

namespace kserve {
namespace {

// Nodes of the tree: a step adds one for every hypothesis that goes on, and one for each that the loop guard
// ends, which leaves its place to the next candidate.
std::size_t most_nodes(const DecodingOptions& options, std::size_t width, const Task& task) {
  const std::size_t a_step =
      options.constraints.loop_guard > 0 ? std::max(options.lanes(), width) : options.lanes();
  return a_step * task.cap;
}

}  // namespace

Search::Search(const DecodingOptions& options, const Model& model, const Task& task, Arena& arena)
    : options_(options),
      task_(task),
      ring_(std::min(model.weights.max_decoder_taps(), task.cap)),
      beam_(static_cast<std::size_t>(options.beam_size)),
      width_(beam_ == 1 ? 1 : 2 * beam_),
      wanted_(static_cast<std::size_t>(std::ceil(static_cast<double>(beam_) * options.rules.patience))),
      attention_layer_(options.attention_layer < 0 ? model.weights.decoder.size() - 1
                                                   : static_cast<std::size_t>(options.attention_layer)),
      chooser_(options, model.weights.architecture.vocab_size, width_, task.cap, arena),
      tree_(most_nodes(options, width_, task), static_cast<std::size_t>(options.n_best), arena) {
  current_ = take_rows(arena);
  next_ = take_rows(arena);
  candidates_ = arena.take<Candidate>(options.lanes() * width_);
  counts_ = arena.take<std::size_t>(options.lanes());
  if (options.keeps_attention()) {
    attention_.emplace(AttentionRecord::Sizes{task.cap, options.lanes(), task.source_tokens}, arena);
  }
}

Search::Rows Search::take_rows(Arena& arena) const {
  const std::size_t rows = options_.lanes();
  return {arena.take<std::int32_t>(rows), arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows), arena.take<std::int32_t>(rows * ring_),
          arena.take<double>(rows),       0};
}

void Search::begin() {
  current_.count = options_.sampling ? options_.lanes() : 1;
  for (std::size_t row = 0; row < current_.count; ++row) {
    current_.tokens[row] = kBeginId;
    current_.samples[row] = static_cast<std::int32_t>(row);
    current_.nodes[row] = -1;
    current_.sums[row] = 0.0;
    std::fill_n(current_.ancestors + row * ring_, ring_, static_cast<std::int32_t>(row));
  }
  chooser_.begin();
}

std::int32_t Search::forced_token() const {
  if (position_ < task_.prefix.size()) return task_.prefix[position_];
  return task_.ends_after_prefix ? kEndId : -1;
}

TokenRequest Search::request() const {
  const std::int32_t forced = forced_token();
  return forced >= 0 ? TokenRequest{0, false, forced} : chooser_.request(position_);
}

void Search::require_finite(const TokenScores& scores) const {
  if (scores.finite) return;
  throw NumericError("the model's output is not finite at target position " + std::to_string(position_) +
                     " of sentence " + std::to_string(task_.index) +
                     "; its weights are damaged or too large, check the bundle");
}

void Search::rank(std::size_t row, const TokenScores& scores) {
  require_finite(scores);
  counts_[row] = 0;
  const std::int32_t forced = forced_token();
  if (forced >= 0) {
    const double log_probability =
        static_cast<double>(scores.token_logit) - static_cast<double>(scores.log_sum_exp);
    add_candidate(row, {log_probability, log_probability, 0.0, forced});
    return;
  }
  const std::uint64_t sentence = (options_.sampling ? options_.sampling->first_sentence : 0) + task_.index;
  const Chooser::Situation situation{
      current_.nodes[row],
      position_,
      position_ + 1 >= task_.floor,
      {sentence, static_cast<std::uint64_t>(current_.samples[row]), position_}};
  const Chooser::Choices choices = chooser_.choose(scores, situation, tree_);
  for (std::size_t i = 0; i < choices.count; ++i) add_candidate(row, choices.first[i]);
}

void Search::add_candidate(std::size_t row, const Choice& choice) {
  candidates_[row * width_ + counts_[row]++] = {current_.sums[row] + choice.ranked, choice.log_probability,
                                                choice.id, static_cast<std::int32_t>(row)};
}

bool Search::before(const Candidate& a, const Candidate& b) {
  if (a.sum != b.sum) return a.sum > b.sum;
  return a.id != b.id ? a.id < b.id : a.row < b.row;
}

void Search::advance() {
  next_.count = 0;
  if (options_.sampling) {
    for (std::size_t row = 0; row < current_.count; ++row) advance_sample(row);
  } else {
    advance_beam();
  }
  std::swap(current_, next_);
  ++position_;
}

// A sample goes on or ends whatever the others do.
void Search::advance_sample(std::size_t row) {
  const Candidate& candidate = candidates_[row * width_];
  if (candidate.id == kEndId) {
    end(candidate, Ending::kEndToken);
  } else if (position_ + 1 >= task_.cap) {
    end(candidate, Ending::kCap);
  } else {
    keep(candidate);
  }
}

// Moves the candidates of all rows together; returns how many.
std::size_t Search::gather_candidates() {
  Candidate* next = candidates_;
  for (std::size_t row = 0; row < current_.count; ++row) {
    next = std::copy_n(candidates_ + row * width_, counts_[row], next);
  }
  return static_cast<std::size_t>(next - candidates_);
}

void Search::advance_beam() {
  const std::size_t total = gather_candidates(), looked_at = std::min(width_, total);
  std::partial_sort(candidates_, candidates_ + looked_at, candidates_ + total, before);
  for (std::size_t rank = 0; rank < std::min(beam_, looked_at); ++rank) {
    if (candidates_[rank].id == kEndId) end(candidates_[rank], Ending::kEndToken);
  }
  if (options_.rules.early_stop && tree_.ended() >= wanted_) return;
  const bool at_cap = position_ + 1 >= task_.cap;
  std::size_t cut = 0;
  for (std::size_t rank = 0; rank < looked_at && next_.count + cut < beam_; ++rank) {
    if (candidates_[rank].id == kEndId) continue;
    if (at_cap) {
      end(candidates_[rank], Ending::kCap);
      ++cut;
    } else {
      keep(candidates_[rank]);
    }
  }
  if (next_.count > 0 && is_beaten(next_.sums[0])) next_.count = 0;
}

// Whether nothing that goes on from this sum of log-probabilities can be among the n_best any more: a sum
// only falls, and the longest hypothesis divides it by most.
bool Search::is_beaten(double sum) const {
  if (tree_.kept() < static_cast<std::size_t>(options_.n_best)) return false;
  return tree_.settled(normalised(sum, task_.cap));
}

double Search::normalised(double sum, std::size_t length) const {
  return length == 0 ? 0.0 : sum / std::pow(static_cast<double>(length), options_.length_penalty);
}

// Takes a hypothesis with its candidate as it is. An end token stays outside the tree.
void Search::end(const Candidate& candidate, Ending ending) {
  const bool has_end = ending == Ending::kEndToken;
  const std::int32_t node = has_end ? current_.nodes[candidate.row] : add_node(candidate);
  finish(candidate.sum,
         {0.0, has_end ? candidate.log_probability : 0.0, node, candidate.row, position_ + 1, ending});
}

void Search::finish(double sum, Finished finished) {
  finished.score = normalised(sum, finished.length);
  if (options_.rules.coverage_penalty > 0.0) {
    finished.score += options_.rules.coverage_penalty * attention_->coverage(tree_, finished);
  }
  tree_.finish(finished);
}

void Search::keep(const Candidate& candidate) {
  const std::int32_t node = add_node(candidate);
  if (chooser_.loops(node, tree_)) {
    finish(candidate.sum, {0.0, 0.0, node, candidate.row, position_ + 1, Ending::kLoop});
    return;
  }
  const std::size_t row = next_.count++;
  next_.tokens[row] = candidate.id;
  next_.samples[row] = current_.samples[candidate.row];
  next_.nodes[row] = node;
  next_.sums[row] = candidate.sum;
  const std::int32_t* parent = current_.ancestors + static_cast<std::size_t>(candidate.row) * ring_;
  std::int32_t* ancestors = next_.ancestors + row * ring_;
  std::copy_n(parent, ring_, ancestors);
  ancestors[(position_ + 1) % ring_] = static_cast<std::int32_t>(row);
}

std::int32_t Search::add_node(const Candidate& candidate) {
  if (options_.control.on_token) {
    options_.control.on_token(static_cast<std::int64_t>(task_.index), candidate.id);
  }
  return tree_.add({candidate.log_probability, current_.nodes[candidate.row], candidate.id, candidate.row});
}

void Search::stop() {
  for (std::size_t row = 0; row < current_.count; ++row) {
    finish(current_.sums[row], {0.0, 0.0, current_.nodes[row], -1, position_, Ending::kDeadline});
  }
  current_.count = 0;
}

std::vector<Hypothesis> Search::result() const {
  std::vector<Hypothesis> hypotheses;
  for (std::size_t rank = 0; rank < tree_.kept(); ++rank) {
    const Finished& finished = tree_.best(rank);
    hypotheses.push_back(tree_.spell(finished));
    if (!options_.attention) continue;
    Hypothesis& hypothesis = hypotheses.back();
    hypothesis.source_tokens = task_.source_tokens;
    hypothesis.attention = attention_->spell(tree_, finished);
  }
  return hypotheses;
}

}  // namespace kserve
