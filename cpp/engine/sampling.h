// Drawing a token. There is no generator to carry along: every draw has its own number, made from the seed
// and from where the draw is, so it is the same in any batch, on any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/constraints.h"
#include "engine/options.h"

namespace kserve {

struct DrawPlace {
  std::uint64_t sentence, sample, position;
};

// In [0, 1), 53 bits, evenly spread over places and seeds.
double uniform(std::uint64_t seed, const DrawPlace& place);

// The choice that is drawn, after temperature and top_p; choices change their order. count >= 1. All choices
// of a row must be there (or the best top_k of them).
Choice draw(const Sampling& sampling, double uniform, Choice* choices, std::size_t count);

}  // namespace kserve
