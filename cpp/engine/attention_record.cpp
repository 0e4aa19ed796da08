#include "engine/attention_record.h"

#include <algorithm>
#include <cmath>

namespace kserve {

// Calls visit(position, shares of the token at that position) from the last position to the first.
template <class Visit>
void AttentionRecord::each(const HypothesisTree& tree, const Finished& finished, const Visit& visit) const {
  std::size_t position = finished.length;
  if (finished.ending == Ending::kEndToken) {
    --position;
    visit(position, shares(position, finished.row));
  }
  for (std::int32_t node = finished.node; node >= 0; node = tree.node(node).parent) {
    --position;
    visit(position, shares(position, tree.node(node).row));
  }
}

std::vector<float> AttentionRecord::spell(const HypothesisTree& tree, const Finished& finished) const {
  std::vector<float> table(finished.length * sizes_.source);
  each(tree, finished, [&](std::size_t position, const float* shares) {
    std::copy_n(shares, sizes_.source, table.data() + position * sizes_.source);
  });
  return table;
}

double AttentionRecord::coverage(const HypothesisTree& tree, const Finished& finished) const {
  constexpr double kLeast = 1e-6;  // a source token that nothing looked at costs much, but not everything
  std::vector<double> covered(sizes_.source, 0.0);
  each(tree, finished, [&](std::size_t, const float* shares) {
    for (std::size_t i = 0; i < sizes_.source; ++i) covered[i] += static_cast<double>(shares[i]);
  });
  double sum = 0.0;
  for (const double share : covered) sum += std::log(std::clamp(share, kLeast, 1.0));
  return sum;
}

}  // namespace kserve
