// Sizes that the kernels and the code that reserves memory for them agree on.
#pragma once

#include <cstddef>

#include "kernels/table.h"

namespace kserve::kernels {

// Rows that a K-matrix kernel takes through one square together: a usual beam, and few enough that they stay
// in the nearest cache beside the weights.
constexpr std::size_t kKMatrixRowsAtOnce = 6;

// What KernelTable::rank_tokens keeps of every row while it goes through the vocabulary.
constexpr std::size_t kRankRowBytes = 192;
constexpr std::size_t kCandidateBytes = 16;
// Rows are computed in blocks of this many where the processor has matrix units.
constexpr std::size_t kRowBlock = 16;
// Terms of a log-sum-exp that are put right (rank-inl.h), and so tokens that are always looked for.
constexpr std::size_t kRightTerms = 16;
constexpr std::size_t ranked_tokens(std::size_t wanted) {
  return wanted > kRightTerms ? wanted : kRightTerms;
}
// Candidates of a row that are kept when `ranked` are looked for.
constexpr std::size_t candidate_room(std::size_t ranked) { return 2 * ranked + 64; }

// The grid of a layer in -> out (docs/design.md, "K-matrices"), without its weights. Throws
// std::invalid_argument if a size is 0 or the expansion is not a power of two.
KMatrix kmatrix_layer(std::size_t in, std::size_t out, std::size_t width, std::size_t expansion);

}  // namespace kserve::kernels
