// Tokens that might be among a row's best, while only near logits are known: each lies within a bound of the
// exact one. A token is kept while its highest possible logit reaches the k-th best of the lowest possible
// ones; in the end only those that are left are computed exactly.
#pragma once

#include <math.h>

#include "kernels/lanes-inl.h"
#include "kernels/layout.h"

namespace kserve::kernels {
namespace {

constexpr float kNotExact = -INFINITY;

struct Candidate {
  std::int32_t id;
  float near, highest;  // its near logit and the highest possible one, in units of the row's step
  float logit;          // the exact one, kNotExact until it is known

  bool is_exact() const { return logit > kNotExact; }
};

// A row's candidates in ascending order of ids, and the k best of their lowest possible logits, best first.
struct Candidates {
  Candidate* list;  // (room)
  Candidate* best;  // (wanted), for whoever computes them
  float* lowest;    // (wanted)
  std::size_t wanted, room, count, ranked;
  float threshold;  // what the highest possible logit must be above

  // memory: rank_candidate_bytes(k).
  void start(char* memory, std::size_t k) {
    wanted = k;
    room = candidate_room(k);
    list = reinterpret_cast<Candidate*>(memory);
    best = list + room;
    lowest = reinterpret_cast<float*>(best + k);
    clear();
  }

  bool is_full() const { return count == room; }
  bool may_be_best(const Candidate& candidate) const { return candidate.highest > threshold; }

  void clear() {
    count = ranked = 0;
    threshold = wanted > 0 ? -INFINITY : INFINITY;
  }

  void drop_overtaken() {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
      if (may_be_best(list[i])) list[kept++] = list[i];
    }
    count = kept;
  }

  // A token above the threshold; there must be room. low: its lowest possible logit.
  void add(const Candidate& candidate, float low) {
    list[count++] = candidate;
    if (ranked == wanted && !(low > lowest[wanted - 1])) return;
    std::size_t place = ranked < wanted ? ranked++ : wanted - 1;
    for (; place > 0 && lowest[place - 1] < low; --place) lowest[place] = lowest[place - 1];
    lowest[place] = low;
    if (ranked == wanted) threshold = next_below(lowest[wanted - 1]);
  }

 private:
  // Not `x` itself: an equal one may have the lower id, and what is tiny may be lost to underflow.
  static float next_below(float x) { return x - (x < 0.0F ? -x : x) * 0x1p-20F - 0x1p-80F; }
};

}  // namespace
}  // namespace kserve::kernels
