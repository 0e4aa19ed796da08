#include "engine/sampling.h"

#include <algorithm>
#include <cmath>

namespace kserve {
namespace {

// The finishing step of splitmix64: every bit of the input reaches every bit of the result.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

bool before(const Choice& a, const Choice& b) {
  return a.ranked != b.ranked ? a.ranked > b.ranked : a.id < b.id;
}

// Brings the best choices that have `mass` of weight together to the front; returns how many they are. Sorts
// no more than it must: mostly a few tokens of ten thousand hold nearly all.
std::size_t nucleus(Choice* choices, std::size_t count, double mass) {
  constexpr std::size_t kFirst = 32;
  double sum = 0.0;
  std::size_t sorted = 0;
  for (std::size_t next = std::min(kFirst, count); sorted < count; next = std::min(4 * next, count)) {
    std::partial_sort(choices + sorted, choices + next, choices + count, before);
    for (; sorted < next; ++sorted) {
      sum += choices[sorted].weight;
      if (sum >= mass) return sorted + 1;
    }
  }
  return count;
}

double total_weight(const Choice* choices, std::size_t count) {
  double total = 0.0;
  for (std::size_t i = 0; i < count; ++i) total += choices[i].weight;
  return total;
}

}  // namespace

double uniform(std::uint64_t seed, const DrawPlace& place) {
  const std::uint64_t bits = mix(mix(mix(mix(seed) ^ place.sentence) ^ place.sample) ^ place.position);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

Choice draw(const Sampling& sampling, double uniform, Choice* choices, std::size_t count) {
  double top = choices[0].ranked;
  for (std::size_t i = 1; i < count; ++i) top = std::max(top, choices[i].ranked);
  for (std::size_t i = 0; i < count; ++i) {
    choices[i].weight = std::exp((choices[i].ranked - top) / sampling.temperature);
  }
  if (sampling.top_p < 1.0) {
    count = nucleus(choices, count, sampling.top_p * total_weight(choices, count));
  }
  const double wanted = uniform * total_weight(choices, count);
  double sum = 0.0;
  for (std::size_t i = 0; i + 1 < count; ++i) {
    sum += choices[i].weight;
    if (sum > wanted) return choices[i];
  }
  return choices[count - 1];
}

}  // namespace kserve
