#include "engine/beam.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "engine/error.h"

namespace kserve {
namespace {

std::size_t total_cap(const std::vector<Task>& tasks) {
  std::size_t total = 0;
  for (const Task& task : tasks) total += task.cap;
  return total;
}

std::size_t longest(const std::vector<Task>& tasks, std::size_t Task::* length) {
  std::size_t most = 0;
  for (const Task& task : tasks) most = std::max(most, task.*length);
  return most;
}

// Nodes of the tree: a step adds one for every hypothesis that goes on, and one for each that the loop guard
// ends, which leaves its place to the next candidate.
std::size_t most_nodes(const DecodingOptions& options, std::size_t width, const std::vector<Task>& tasks) {
  const std::size_t a_step =
      options.constraints.loop_guard > 0 ? std::max(options.lanes(), width) : options.lanes();
  return a_step * total_cap(tasks);
}

std::size_t attention_layer(const DecodingOptions& options, std::size_t layers) {
  return options.attention_layer < 0 ? layers - 1 : static_cast<std::size_t>(options.attention_layer);
}

}  // namespace

Search::Search(const DecodingOptions& options, const Model& model, std::vector<Task> tasks, Arena& arena)
    : options_(options),
      tasks_(std::move(tasks)),
      ring_(model.weights.max_decoder_taps()),
      beam_(static_cast<std::size_t>(options.beam_size)),
      width_(beam_ == 1 ? 1 : 2 * beam_),
      wanted_(static_cast<std::size_t>(std::ceil(static_cast<double>(beam_) * options.rules.patience))),
      attention_layer_(attention_layer(options, model.weights.decoder.size())),
      chooser_(options, model.weights.architecture.vocab_size, width_, longest(tasks_, &Task::cap), arena),
      tree_({most_nodes(options, width_, tasks_), tasks_.size(), static_cast<std::size_t>(options.n_best)},
            arena) {
  current_ = take_rows(arena);
  next_ = take_rows(arena);
  candidates_ = arena.take<Candidate>(max_rows() * width_);
  counts_ = arena.take<std::size_t>(max_rows());
  if (options.keeps_attention()) {
    const std::size_t source = longest(tasks_, &Task::source_tokens);
    attention_.emplace(AttentionRecord::Sizes{longest(tasks_, &Task::cap), max_rows(), source}, arena);
  }
}

Search::Rows Search::take_rows(Arena& arena) const {
  const std::size_t rows = max_rows();
  return {arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows * ring_),
          arena.take<double>(rows),
          0};
}

void Search::begin() {
  const std::size_t samples = options_.sampling ? options_.lanes() : 1;
  current_.count = tasks_.size() * samples;
  for (std::size_t row = 0; row < current_.count; ++row) {
    current_.tokens[row] = kBeginId;
    current_.sentences[row] = static_cast<std::int32_t>(row / samples);
    current_.samples[row] = static_cast<std::int32_t>(row % samples);
    current_.nodes[row] = -1;
    current_.sums[row] = 0.0;
    std::fill_n(current_.ancestors + row * ring_, ring_, static_cast<std::int32_t>(row));
  }
  position_ = 0;
  chooser_.begin();
  tree_.begin();
}

StepRows Search::rows() const {
  StepRows rows;
  rows.position = position_;
  rows.count = current_.count;
  rows.tokens = current_.tokens;
  rows.sentences = current_.sentences;
  rows.ancestors = current_.ancestors;
  if (attention_) attention_->receive(rows, attention_layer_);
  return rows;
}

std::int32_t Search::forced_token(std::size_t row) const {
  const Task& task = task_of(row);
  if (position_ < task.prefix.size()) return task.prefix[position_];
  return task.ends_after_prefix ? kEndId : -1;
}

TokenRequest Search::request(std::size_t row) const {
  const std::int32_t forced = forced_token(row);
  return forced >= 0 ? TokenRequest{0, false, forced} : chooser_.request(position_);
}

void Search::require_finite(std::size_t row, const TokenScores& scores) const {
  if (std::isfinite(scores.log_sum_exp) && std::isfinite(scores.token_logit) &&
      scores.count == request(row).best) {
    return;
  }
  throw NumericError("the model's output is not finite at target position " + std::to_string(position_) +
                     " of sentence " + std::to_string(task_of(row).index) +
                     "; its weights are damaged or too large, check the bundle");
}

void Search::rank(std::size_t row, const TokenScores& scores) {
  require_finite(row, scores);
  counts_[row] = 0;
  const std::int32_t forced = forced_token(row);
  if (forced >= 0) {
    const double log_probability =
        static_cast<double>(scores.token_logit) - static_cast<double>(scores.log_sum_exp);
    add_candidate(row, {log_probability, log_probability, 0.0, forced});
    return;
  }
  const std::uint64_t sentence =
      (options_.sampling ? options_.sampling->first_sentence : 0) + task_of(row).index;
  const Chooser::Situation situation{
      current_.nodes[row],
      position_,
      position_ + 1 >= task_of(row).floor,
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
  std::size_t first = 0;
  while (first < current_.count) {
    std::size_t end = first + 1;
    if (options_.sampling) {
      advance_sample(first);
    } else {
      while (end < current_.count && current_.sentences[end] == current_.sentences[first]) ++end;
      advance_sentence(first, end);
    }
    first = end;
  }
  std::swap(current_, next_);
  ++position_;
}

// A sample goes on or ends whatever the others do.
void Search::advance_sample(std::size_t row) {
  const auto sentence = static_cast<std::size_t>(current_.sentences[row]);
  const Candidate& candidate = candidates_[row * width_];
  if (candidate.id == kEndId) {
    end(candidate, sentence, Ending::kEndToken);
  } else if (position_ + 1 >= tasks_[sentence].cap) {
    end(candidate, sentence, Ending::kCap);
  } else {
    keep(candidate, sentence);
  }
}

// Moves the candidates of rows first ... end - 1 together, from first * width on; returns how many.
std::size_t Search::gather_candidates(std::size_t first, std::size_t end) {
  Candidate* next = candidates_ + first * width_;
  for (std::size_t row = first; row < end; ++row) {
    next = std::copy_n(candidates_ + row * width_, counts_[row], next);
  }
  return static_cast<std::size_t>(next - (candidates_ + first * width_));
}

// Rows first ... end - 1 are the hypotheses of one sentence.
void Search::advance_sentence(std::size_t first, std::size_t end) {
  const auto sentence = static_cast<std::size_t>(current_.sentences[first]);
  const std::size_t total = gather_candidates(first, end), looked_at = std::min(width_, total);
  Candidate* const begin = candidates_ + first * width_;
  std::partial_sort(begin, begin + looked_at, begin + total, before);
  for (std::size_t rank = 0; rank < std::min(beam_, looked_at); ++rank) {
    if (begin[rank].id == kEndId) this->end(begin[rank], sentence, Ending::kEndToken);
  }
  if (options_.rules.early_stop && tree_.ended(sentence) >= wanted_) return;
  const bool at_cap = position_ + 1 >= tasks_[sentence].cap;
  const std::size_t before = next_.count;
  std::size_t cut = 0;
  for (std::size_t rank = 0; rank < looked_at && next_.count - before + cut < beam_; ++rank) {
    if (begin[rank].id == kEndId) continue;
    if (at_cap) {
      this->end(begin[rank], sentence, Ending::kCap);
      ++cut;
    } else {
      keep(begin[rank], sentence);
    }
  }
  if (next_.count > before && is_beaten(sentence, next_.sums[before])) next_.count = before;
}

// Whether nothing that goes on from this sum of log-probabilities can be among the n_best any more: a sum
// only falls, and the longest hypothesis divides it by most.
bool Search::is_beaten(std::size_t sentence, double sum) const {
  if (tree_.kept(sentence) < static_cast<std::size_t>(options_.n_best)) return false;
  return tree_.settled(sentence, normalised(sum, tasks_[sentence].cap));
}

double Search::normalised(double sum, std::size_t length) const {
  return length == 0 ? 0.0 : sum / std::pow(static_cast<double>(length), options_.length_penalty);
}

// Takes a hypothesis with its candidate as it is. An end token stays outside the tree.
void Search::end(const Candidate& candidate, std::size_t sentence, Ending ending) {
  const bool has_end = ending == Ending::kEndToken;
  const std::int32_t node = has_end ? current_.nodes[candidate.row] : add_node(candidate, sentence);
  finish(sentence, candidate.sum,
         {0.0, has_end ? candidate.log_probability : 0.0, node, candidate.row, position_ + 1, ending});
}

void Search::finish(std::size_t sentence, double sum, Finished finished) {
  finished.score = normalised(sum, finished.length);
  if (options_.rules.coverage_penalty > 0.0) {
    finished.score += options_.rules.coverage_penalty *
                      attention_->coverage(tree_, finished, tasks_[sentence].source_tokens);
  }
  tree_.finish(sentence, finished);
}

void Search::keep(const Candidate& candidate, std::size_t sentence) {
  const std::int32_t node = add_node(candidate, sentence);
  if (chooser_.loops(node, tree_)) {
    finish(sentence, candidate.sum, {0.0, 0.0, node, candidate.row, position_ + 1, Ending::kLoop});
    return;
  }
  const std::size_t row = next_.count++;
  next_.tokens[row] = candidate.id;
  next_.sentences[row] = static_cast<std::int32_t>(sentence);
  next_.samples[row] = current_.samples[candidate.row];
  next_.nodes[row] = node;
  next_.sums[row] = candidate.sum;
  const std::int32_t* parent = current_.ancestors + static_cast<std::size_t>(candidate.row) * ring_;
  std::int32_t* ancestors = next_.ancestors + row * ring_;
  std::copy_n(parent, ring_, ancestors);
  ancestors[(position_ + 1) % ring_] = static_cast<std::int32_t>(row);
}

std::int32_t Search::add_node(const Candidate& candidate, std::size_t sentence) {
  if (options_.control.on_token) {
    options_.control.on_token(static_cast<std::int64_t>(tasks_[sentence].index), candidate.id);
  }
  return tree_.add({candidate.log_probability, current_.nodes[candidate.row], candidate.id, candidate.row});
}

void Search::stop() {
  for (std::size_t row = 0; row < current_.count; ++row) {
    finish(static_cast<std::size_t>(current_.sentences[row]), current_.sums[row],
           {0.0, 0.0, current_.nodes[row], -1, position_, Ending::kDeadline});
  }
  current_.count = 0;
}

std::vector<Hypothesis> Search::result(std::size_t sentence) const {
  std::vector<Hypothesis> hypotheses;
  for (std::size_t rank = 0; rank < tree_.kept(sentence); ++rank) {
    const Finished& finished = tree_.best(sentence, rank);
    hypotheses.push_back(tree_.spell(finished));
    if (!options_.attention) continue;
    Hypothesis& hypothesis = hypotheses.back();
    hypothesis.source_tokens = tasks_[sentence].source_tokens;
    hypothesis.attention = attention_->spell(tree_, finished, hypothesis.source_tokens);
  }
  return hypotheses;
}

}  // namespace kserve
