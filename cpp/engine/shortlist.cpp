#include "engine/shortlist.h"

#include <cstring>

namespace kserve {
namespace {

// Tokens, a bit for each of the vocabulary: some thousand from many lists are in order without being sorted.
class TokenSet {
 public:
  explicit TokenSet(std::size_t vocab_size) : words_(vocab_size / kBits + 1) {}

  void add(const std::int32_t* ids, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) word(ids[i]) |= bit(ids[i]);
  }
  void remove(std::int32_t id) { word(id) &= ~bit(id); }

  std::vector<std::int32_t> ascending() const {
    std::vector<std::int32_t> ids;
    for (std::size_t i = 0; i < words_.size(); ++i) {
      for (std::uint64_t left = words_[i]; left != 0; left &= left - 1) {
        ids.push_back(static_cast<std::int32_t>(i * kBits) + __builtin_ctzll(left));
      }
    }
    return ids;
  }

 private:
  static constexpr std::size_t kBits = 64;

  static std::uint64_t bit(std::int32_t id) {
    return std::uint64_t{1} << (static_cast<std::size_t>(id) % kBits);
  }
  std::uint64_t& word(std::int32_t id) { return words_[static_cast<std::size_t>(id) / kBits]; }

  std::vector<std::uint64_t> words_;
};

}  // namespace

std::vector<std::int32_t> shortlist_tokens(const Weights& weights, const std::vector<std::int32_t>& source,
                                           const std::vector<std::int32_t>& forced) {
  const Shortlist& shortlist = weights.shortlist;
  TokenSet tokens(weights.architecture.vocab_size);
  tokens.add(shortlist.always, shortlist.always_count);
  tokens.add(&kEndId, 1);
  tokens.add(forced.data(), forced.size());
  for (const std::int32_t id : source) {
    const auto first = static_cast<std::size_t>(shortlist.first[id]);
    tokens.add(shortlist.tokens + first, static_cast<std::size_t>(shortlist.first[id + 1]) - first);
  }
  for (const std::int32_t id : {kUnknownId, kBeginId, kPaddingId}) tokens.remove(id);
  return tokens.ascending();
}

ShortVocabulary::ShortVocabulary(const Model& model, const std::vector<std::int32_t>& tokens, Arena& arena)
    : model_(model) {
  const std::size_t n = model.weights.architecture.d_model, panels = kernels::panels_of(tokens.size());
  panels_ =
      arena.take<std::int8_t>(panels * kernels::byte_groups(n) * kernels::kLanes * kernels::kBytesPerLane);
  scale_ = arena.take<float>(panels * kernels::kLanes);
  reach_ = arena.take<float>(panels * kernels::kLanes);
  offset_ = arena.take<std::int32_t>(panels * kernels::kLanes);
  vocabulary_ = {tokens.size(), n, panels_, scale_, reach_, offset_, model.weights.embedding, tokens.data()};
}

void ShortVocabulary::fill() {
  const std::size_t n = vocabulary_.n, whole = n / kernels::kBytesPerLane, rest = n % kernels::kBytesPerLane;
  const std::size_t groups = kernels::byte_groups(n), panels = kernels::panels_of(vocabulary_.size);
  constexpr std::size_t kGroupBytes = kernels::kLanes * kernels::kBytesPerLane;
  if (rest != 0 || vocabulary_.size % kernels::kLanes != 0)
    std::memset(panels_, 0, panels * groups * kGroupBytes);
  for (std::size_t i = 0; i < panels * kernels::kLanes; ++i) {
    const bool exists = i < vocabulary_.size;
    const auto id = static_cast<std::size_t>(exists ? vocabulary_.ids[i] : 0);
    scale_[i] = exists ? model_.scale[id] : 0.0F;
    reach_[i] = exists ? model_.reach[id] : 0.0F;
    offset_[i] = exists ? model_.offset[id] : 0;
    if (!exists) continue;
    const std::int8_t* const from = vocabulary_.rows + id * n;
    std::int8_t* to =
        panels_ + i / kernels::kLanes * groups * kGroupBytes + i % kernels::kLanes * kernels::kBytesPerLane;
    for (std::size_t g = 0; g < whole; ++g, to += kGroupBytes) {
      std::memcpy(to, from + g * kernels::kBytesPerLane, kernels::kBytesPerLane);
    }
    if (rest != 0) std::memcpy(to, from + whole * kernels::kBytesPerLane, rest);
  }
}

}  // namespace kserve
