#include "engine/shortlist.h"

#include <algorithm>
#include <cstring>

namespace kserve {

std::vector<std::int32_t> shortlist_tokens(const Shortlist& shortlist,
                                           const std::vector<std::int32_t>& source,
                                           const std::vector<std::int32_t>& forced) {
  std::vector<std::int32_t> tokens(shortlist.always, shortlist.always + shortlist.always_count);
  tokens.push_back(kEndId);
  tokens.insert(tokens.end(), forced.begin(), forced.end());
  for (const std::int32_t id : source) {
    tokens.insert(tokens.end(), shortlist.tokens + shortlist.first[id],
                  shortlist.tokens + shortlist.first[id + 1]);
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  const auto never = [](std::int32_t id) { return id == kUnknownId || id == kBeginId || id == kPaddingId; };
  tokens.erase(std::remove_if(tokens.begin(), tokens.end(), never), tokens.end());
  return tokens;
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
