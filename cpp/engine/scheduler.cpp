#include "engine/scheduler.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "engine/error.h"
#include "engine/parallel.h"
#include "kernels/dispatch.h"

namespace kserve {
namespace {

constexpr std::int64_t kMaxThreads = 256;
// A very short sentence costs about as much memory, in histories and search, as one of this many tokens.
constexpr std::size_t kLeastCost = 16;

std::size_t cost(const Sentence& source, const DecodingOptions& options) {
  return std::max(source.size(), kLeastCost) * static_cast<std::size_t>(options.beam_size);
}

std::size_t checked_threads(std::int64_t threads) {
  if (threads < 1 || threads > kMaxThreads) {
    throw OptionError("threads is " + std::to_string(threads) + ", wanted 1 to " +
                      std::to_string(kMaxThreads));
  }
  return static_cast<std::size_t>(threads);
}

Packed pack(const std::vector<Sentence>& sources, const std::vector<std::size_t>& group) {
  Packed packed;
  packed.first.push_back(0);
  for (std::size_t index : group) {
    for (std::int64_t id : sources[index]) packed.ids.push_back(static_cast<std::int32_t>(id));
    packed.first.push_back(packed.ids.size());
  }
  return packed;
}

EncoderBuffers take_encoder_buffers(const Model& model, const Packed& source, Arena& arena) {
  const std::size_t numbers = source.rows() * model.weights.architecture.d_model;
  return {arena.take<float>(numbers), arena.take<float>(numbers)};
}

// Everything one group needs while it is decoded. Built twice with the same layout: to measure, then to work.
struct GroupJob {
  GroupJob(const Model& model, const Packed& source, const DecodingOptions& options, Arena& arena)
      : scratch(take_scratch(model.weights, arena)),
        decoder(model, source, source.sentences() * static_cast<std::size_t>(options.beam_size), arena),
        search(options, model, caps(model, source, options), arena) {
    const std::size_t mark = arena.mark();
    encoder = take_encoder_buffers(model, source, arena);
    arena.rewind(mark);  // the steps begin when the encoder has ended
    decoder.take_step_buffers(arena);
    output.emplace(model, search.request(), arena);
  }

  static std::vector<std::size_t> caps(const Model& model, const Packed& source,
                                       const DecodingOptions& options) {
    std::vector<std::size_t> caps;
    for (std::size_t s = 0; s < source.sentences(); ++s) {
      caps.push_back(length_cap(options, model.weights.architecture.max_positions, source.length(s)));
    }
    return caps;
  }

  void run(const Model& model, const Packed& source) {
    const Blocks blocks(model, scratch);
    encode(model, blocks, source, encoder);
    decoder.attend_to(blocks, encoder.x);
    search.begin();
    for (StepRows rows = search.rows(); rows.count > 0; rows = search.rows()) {
      decoder.step(blocks, rows);
      for (std::size_t r = 0; r < rows.count; r += kOutputRows) {
        const std::size_t count = std::min(kOutputRows, rows.count - r);
        const TokenRequest request = search.request();
        output->project(decoder.hidden(blocks, r, count), count, request.best);
        for (std::size_t i = 0; i < count; ++i) search.rank(r + i, output->answer(i, request));
      }
      search.advance();
    }
  }

  Scratch scratch;
  Decoder decoder;
  Search search;
  EncoderBuffers encoder;
  std::optional<OutputLayer> output;  // its memory follows that of the steps
};

std::size_t measure(const Model& model, const Packed& source, const DecodingOptions& options) {
  Arena counting;
  const GroupJob job(model, source, options, counting);
  return counting.peak();
}

const kernels::KernelTable& choose_table(const std::string& isa) {
  try {
    return kernels::choose(isa);
  } catch (const std::exception& problem) {
    throw OptionError(problem.what());
  }
}

}  // namespace

Engine::Engine(const Architecture& architecture, const TensorMap& tensors, const std::string& isa,
               std::int64_t threads)
    : threads_(checked_threads(threads)),
      model_(make_model(bind_weights(architecture, tensors), choose_table(isa))) {}

void Engine::check_source(const Sentence& source, std::size_t index) const {
  const std::string where = "source " + std::to_string(index);
  if (source.empty())
    throw InputError(where + " is empty; wanted token ids ending in " + std::to_string(kEndId));
  if (source.size() > architecture().max_positions) {
    throw InputError(where + " has " + std::to_string(source.size()) +
                     " tokens, but the model takes at most " + std::to_string(architecture().max_positions) +
                     "; split it");
  }
  for (std::size_t t = 0; t < source.size(); ++t) {
    if (source[t] < 0 || source[t] >= static_cast<std::int64_t>(architecture().vocab_size)) {
      throw InputError(where + " has id " + std::to_string(source[t]) + " at place " + std::to_string(t) +
                       ", wanted 0 to " + std::to_string(architecture().vocab_size - 1));
    }
  }
}

std::vector<Engine::Group> Engine::cut(const std::vector<Sentence>& sources,
                                       const DecodingOptions& options) const {
  Group order(sources.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // Longest first: sentences of one group are of similar length, and the last group to start is a short one.
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return sources[a].size() > sources[b].size(); });
  std::size_t total = 0;
  for (const Sentence& source : sources) total += cost(source, options);
  // With several threads a call is cut into at least as many groups, where it has as many sentences.
  const std::size_t share = (total + threads_ - 1) / threads_;
  const std::size_t limit = std::min(static_cast<std::size_t>(options.max_batch_tokens), share);
  std::vector<Group> groups;
  std::size_t filled = limit;
  for (std::size_t index : order) {
    const std::size_t added = cost(sources[index], options);
    if (groups.empty() || filled + added > limit) {
      groups.emplace_back();
      filled = 0;
    }
    groups.back().push_back(index);
    filled += added;
  }
  return groups;
}

std::vector<std::vector<Hypothesis>> Engine::translate(const std::vector<Sentence>& sources,
                                                       const DecodingOptions& options) const {
  check(options, architecture());
  for (std::size_t i = 0; i < sources.size(); ++i) check_source(sources[i], i);
  const std::vector<Group> groups = cut(sources, options);
  std::vector<std::vector<Hypothesis>> results(sources.size());
  parallel_for(groups.size(), threads_, [&](std::size_t g) {
    const Packed packed = pack(sources, groups[g]);
    WorkspacePool::Lease workspace = pool_.lease();
    workspace.reserve(measure(model_, packed, options));
    GroupJob job(model_, packed, options, workspace.arena());
    job.run(model_, packed);
    for (std::size_t s = 0; s < groups[g].size(); ++s) results[groups[g][s]] = job.search.result(s);
  });
  return results;
}

std::vector<float> Engine::encode(const Sentence& source) const {
  check_source(source, 0);
  const Packed packed = pack({source}, {0});
  const auto lay_out = [&](Arena& arena) {
    const Scratch scratch = take_scratch(model_.weights, arena);
    return std::make_pair(scratch, take_encoder_buffers(model_, packed, arena));
  };
  Arena counting;
  lay_out(counting);
  WorkspacePool::Lease workspace = pool_.lease();
  workspace.reserve(counting.peak());
  const auto [scratch, buffers] = lay_out(workspace.arena());
  kserve::encode(model_, Blocks(model_, scratch), packed, buffers);
  return std::vector<float>(buffers.x, buffers.x + packed.rows() * architecture().d_model);
}

}  // namespace kserve
