#include "engine/options.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/error.h"

namespace kserve {
namespace {

constexpr std::int64_t kMaxBeam = 128;
constexpr std::int64_t kMaxLength = std::int64_t{1} << 20;
constexpr std::int64_t kMaxBatchTokens = 65536;
constexpr double kMaxSeconds = 1e6;

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

void check_lengths(const DecodingOptions& options) {
  require_range("max_length", options.max_length, 0, kMaxLength);
  require_range("max_length_ratio", options.max_length_ratio, 0.0, 1000.0);
  require_range("max_length_extra", options.max_length_extra, 0, kMaxLength);
  if (options.max_length == 0 && options.max_length_extra == 0 && options.max_length_ratio == 0.0) {
    throw OptionError(
        "max_length, max_length_ratio and max_length_extra are all 0, so nothing could be "
        "translated; set one of them");
  }
  const Constraints& constraints = options.constraints;
  const std::int64_t longest = options.max_length > 0 ? options.max_length : kMaxLength;
  require_range("min_length", constraints.min_length, 0, longest);
  require_range("min_length_ratio", constraints.min_length_ratio, 0.0, 1000.0);
}

void check_constraints(const Constraints& constraints, const Architecture& architecture) {
  require_range("no_repeat_ngram", constraints.no_repeat_ngram, 0, kMaxLength);
  // Below 1 a token that is not among the best could become one of them.
  require_range("repetition_penalty", constraints.repetition_penalty, 1.0, 100.0);
  require_range("loop_guard", constraints.loop_guard, 0, kMaxLength);
  if (constraints.loop_guard == 1) {
    throw OptionError("loop_guard is 1, wanted 0 (off) or at least 2: once is no repetition");
  }
  for (std::int64_t id : constraints.suppressed) {
    require_range("a suppressed id", id, 0, static_cast<std::int64_t>(architecture.vocab_size) - 1);
  }
}

void check_sampling(const DecodingOptions& options, const Architecture& architecture) {
  const Sampling& sampling = *options.sampling;
  require_range("temperature", sampling.temperature, 1e-3, 100.0);
  require_range("top_k", sampling.top_k, 0, static_cast<std::int64_t>(architecture.vocab_size) - 3);
  require_range("top_p", sampling.top_p, 1e-6, 1.0);
  if (options.beam_size != 1) {
    throw OptionError("beam_size is " + std::to_string(options.beam_size) +
                      ", wanted 1 with sampling; n_best tells how many samples are drawn");
  }
}

void check_control(const DecodingOptions& options, const Architecture& architecture) {
  require_range("deadline", options.control.deadline, 0.0, kMaxSeconds);
  require_range("attention_layer", options.attention_layer, -1,
                static_cast<std::int64_t>(architecture.decoder_kernels.size()) - 1);
  if (options.control.on_token && options.lanes() != 1) {
    throw OptionError(
        "on_token with " + std::to_string(options.lanes()) +
        " hypotheses at a time, wanted 1 (beam_size 1 and n_best 1): only then is a token final "
        "when it is found");
  }
}

}  // namespace

void check(const DecodingOptions& options, const Architecture& architecture) {
  // Unknown, begin and padding never continue, and twice the beam must be found in one row.
  const auto most = (static_cast<std::int64_t>(architecture.vocab_size) - 3) / 2;
  require_range("beam_size", options.beam_size, 1, std::max(std::int64_t{1}, std::min(kMaxBeam, most)));
  require_range("n_best", options.n_best, 1, options.sampling ? kMaxBeam : options.beam_size);
  require_range("length_penalty", options.length_penalty, 0.0, 10.0);
  require_range("coverage_penalty", options.rules.coverage_penalty, 0.0, 10.0);
  require_range("patience", options.rules.patience, 1.0, 10.0);
  require_range("max_batch_tokens", options.max_batch_tokens, 1, kMaxBatchTokens);
  check_lengths(options);
  check_constraints(options.constraints, architecture);
  if (options.sampling) check_sampling(options, architecture);
  check_control(options, architecture);
}

std::size_t length_cap(const DecodingOptions& options, std::size_t max_positions, std::size_t source_tokens) {
  const double wanted = options.max_length > 0
                            ? static_cast<double>(options.max_length)
                            : std::ceil(options.max_length_ratio * static_cast<double>(source_tokens)) +
                                  static_cast<double>(options.max_length_extra);
  return static_cast<std::size_t>(std::min(wanted, static_cast<double>(max_positions - 1)));
}

std::size_t length_floor(const Constraints& constraints, std::size_t cap, std::size_t source_tokens) {
  const double wanted =
      std::max(static_cast<double>(constraints.min_length),
               std::ceil(constraints.min_length_ratio * static_cast<double>(source_tokens)));
  return static_cast<std::size_t>(std::min(wanted, static_cast<double>(cap)));
}

}  // namespace kserve
