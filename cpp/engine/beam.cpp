#include "engine/beam.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "engine/error.h"

namespace kserve {
namespace {

constexpr std::int64_t kMaxBeam = 128;
constexpr std::int64_t kMaxLength = std::int64_t{1} << 20;
constexpr std::int64_t kMaxBatchTokens = 65536;
// A finished list takes fewer than `beam` before its last step and at most `beam` ended and `beam` cut in it.
constexpr std::size_t kFinishedPerBeam = 3;

void require_range(const char* name, std::int64_t got, std::int64_t low, std::int64_t high) {
  if (got >= low && got <= high) return;
  throw OptionError(std::string(name) + " is " + std::to_string(got) + ", wanted " + std::to_string(low) +
                    " to " + std::to_string(high));
}

void require_range(const char* name, double got, double low, double high) {
  if (got >= low && got <= high) return;  // false for NaN
  throw OptionError(std::string(name) + " is " + std::to_string(got) + ", wanted " + std::to_string(low) +
                    " to " + std::to_string(high));
}

}  // namespace

void check(const DecodingOptions& options, const Architecture& architecture) {
  // Unknown, begin and padding never continue, and twice the beam must be found in one row.
  const auto most = (static_cast<std::int64_t>(architecture.vocab_size) - 3) / 2;
  require_range("beam_size", options.beam_size, 1, std::max(std::int64_t{1}, std::min(kMaxBeam, most)));
  require_range("n_best", options.n_best, 1, options.beam_size);
  require_range("length_penalty", options.length_penalty, 0.0, 10.0);
  require_range("max_length", options.max_length, 0, kMaxLength);
  require_range("max_length_ratio", options.max_length_ratio, 0.0, 1000.0);
  require_range("max_length_extra", options.max_length_extra, 0, kMaxLength);
  require_range("max_batch_tokens", options.max_batch_tokens, 1, kMaxBatchTokens);
  if (options.max_length == 0 && options.max_length_extra == 0 && options.max_length_ratio == 0.0) {
    throw OptionError(
        "max_length, max_length_ratio and max_length_extra are all 0, so nothing could be "
        "translated; set one of them");
  }
}

std::size_t length_cap(const DecodingOptions& options, std::size_t max_positions, std::size_t source_tokens) {
  const double wanted = options.max_length > 0
                            ? static_cast<double>(options.max_length)
                            : std::ceil(options.max_length_ratio * static_cast<double>(source_tokens)) +
                                  static_cast<double>(options.max_length_extra);
  return static_cast<std::size_t>(std::min(wanted, static_cast<double>(max_positions - 1)));
}

Search::Search(const DecodingOptions& options, const Model& model, std::vector<std::size_t> caps,
               Arena& arena)
    : options_(options),
      ring_(model.weights.max_decoder_taps()),
      beam_(static_cast<std::size_t>(options.beam_size)),
      width_(beam_ == 1 ? 1 : 2 * beam_),
      caps_(std::move(caps)) {
  const std::size_t rows = caps_.size() * beam_;
  current_ = take_rows(arena);
  next_ = take_rows(arena);
  candidates_ = arena.take<Candidate>(rows * width_);
  nodes_ = arena.take<Node>(beam_ * std::accumulate(caps_.begin(), caps_.end(), std::size_t{0}));
  finished_ = arena.take<Finished>(kFinishedPerBeam * rows);
  finished_counts_ = arena.take<std::size_t>(caps_.size());
}

Search::Rows Search::take_rows(Arena& arena) const {
  const std::size_t rows = caps_.size() * beam_;
  return {arena.take<std::int32_t>(rows), arena.take<std::int32_t>(rows),
          arena.take<std::int32_t>(rows), arena.take<std::int32_t>(rows * ring_),
          arena.take<double>(rows),       0};
}

void Search::begin() {
  for (std::size_t s = 0; s < caps_.size(); ++s) {
    current_.tokens[s] = kBeginId;
    current_.sentences[s] = static_cast<std::int32_t>(s);
    current_.nodes[s] = -1;
    current_.sums[s] = 0.0;
    std::fill_n(current_.ancestors + s * ring_, ring_, static_cast<std::int32_t>(s));
    finished_counts_[s] = 0;
  }
  current_.count = caps_.size();
  position_ = 0;
  node_count_ = 0;
}

StepRows Search::rows() const {
  return {position_, current_.count, current_.tokens, current_.sentences, current_.ancestors};
}

void Search::rank(std::size_t row, const TokenScores& scores) {
  if (!std::isfinite(scores.log_sum_exp) || scores.count != width_) {
    throw NumericError("the model's output is not finite at target position " + std::to_string(position_) +
                       "; its weights are damaged or too large, check the bundle");
  }
  const auto total = static_cast<double>(scores.log_sum_exp);
  for (std::size_t w = 0; w < width_; ++w) {
    const double log_probability = static_cast<double>(scores.logits[w]) - total;
    candidates_[row * width_ + w] = {current_.sums[row] + log_probability, log_probability, scores.ids[w],
                                     static_cast<std::int32_t>(row)};
  }
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
    while (end < current_.count && current_.sentences[end] == current_.sentences[first]) ++end;
    advance_sentence(first, end);
    first = end;
  }
  std::swap(current_, next_);
  ++position_;
}

// Rows first ... end-1 are the hypotheses of one sentence.
void Search::advance_sentence(std::size_t first, std::size_t end) {
  const auto sentence = static_cast<std::size_t>(current_.sentences[first]);
  Candidate* const begin = candidates_ + first * width_;
  std::partial_sort(begin, begin + width_, candidates_ + end * width_, before);
  for (std::size_t rank = 0; rank < std::min(beam_, width_); ++rank) {
    if (begin[rank].id == kEndId) finish(begin[rank], sentence);
  }
  if (finished_counts_[sentence] >= beam_) return;
  const bool at_cap = position_ + 1 >= caps_[sentence];
  std::size_t kept = 0;
  for (std::size_t rank = 0; rank < width_ && kept < beam_; ++rank) {
    if (begin[rank].id == kEndId) continue;
    ++kept;
    if (at_cap) {
      truncate(begin[rank], sentence);
    } else {
      keep(begin[rank], sentence);
    }
  }
}

double Search::score(double sum, std::size_t length) const {
  return sum / std::pow(static_cast<double>(length), options_.length_penalty);
}

void Search::finish(const Candidate& candidate, std::size_t sentence) {
  Finished& slot = finished_[sentence * kFinishedPerBeam * beam_ + finished_counts_[sentence]++];
  slot = {candidate.sum, score(candidate.sum, position_ + 1), candidate.log_probability,
          current_.nodes[candidate.row], false};
}

void Search::truncate(const Candidate& candidate, std::size_t sentence) {
  Finished& slot = finished_[sentence * kFinishedPerBeam * beam_ + finished_counts_[sentence]++];
  slot = {candidate.sum, score(candidate.sum, position_ + 1), 0.0, add_node(candidate), true};
}

void Search::keep(const Candidate& candidate, std::size_t sentence) {
  const std::size_t row = next_.count++;
  next_.tokens[row] = candidate.id;
  next_.sentences[row] = static_cast<std::int32_t>(sentence);
  next_.nodes[row] = add_node(candidate);
  next_.sums[row] = candidate.sum;
  const std::int32_t* parent = current_.ancestors + static_cast<std::size_t>(candidate.row) * ring_;
  std::int32_t* ancestors = next_.ancestors + row * ring_;
  std::copy_n(parent, ring_, ancestors);
  ancestors[(position_ + 1) % ring_] = static_cast<std::int32_t>(row);
}

std::int32_t Search::add_node(const Candidate& candidate) {
  nodes_[node_count_] = {candidate.log_probability, current_.nodes[candidate.row], candidate.id};
  return node_count_++;
}

std::vector<Hypothesis> Search::result(std::size_t sentence) const {
  const Finished* finished = finished_ + sentence * kFinishedPerBeam * beam_;
  std::vector<const Finished*> order(finished_counts_[sentence]);
  std::iota(order.begin(), order.end(), finished);
  std::stable_sort(order.begin(), order.end(),
                   [](const Finished* a, const Finished* b) { return a->score > b->score; });
  order.resize(std::min(order.size(), static_cast<std::size_t>(options_.n_best)));
  std::vector<Hypothesis> hypotheses;
  for (const Finished* best : order) {
    Hypothesis hypothesis{{}, best->score, best->sum, {}, best->truncated};
    if (!best->truncated) hypothesis.token_log_probabilities.push_back(best->end_log_probability);
    for (std::int32_t node = best->node; node >= 0; node = nodes_[node].parent) {
      hypothesis.tokens.push_back(nodes_[node].token);
      hypothesis.token_log_probabilities.push_back(nodes_[node].log_probability);
    }
    std::reverse(hypothesis.tokens.begin(), hypothesis.tokens.end());
    std::reverse(hypothesis.token_log_probabilities.begin(), hypothesis.token_log_probabilities.end());
    hypotheses.push_back(std::move(hypothesis));
  }
  return hypotheses;
}

}  // namespace kserve
