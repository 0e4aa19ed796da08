// The passes of a K-matrix: factors of neighbouring strides, on a group of chunks that stay in registers.
//
// A factor of unit diagonal does y[i] = x[i] + a[i] * x[partner of i]. Chunks are 16 lanes; strides of whole
// chunks pair the same lane of two chunks, smaller ones exchange lanes within a chunk. The order of the
// weights is that of docs/design.md, "Run-time layout": each pass reads its own from front to back.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

// Strides of whole chunks in a pass. A square of at most 2^kSmallBits chunks is one pass; in a larger one the
// pass in the middle takes the smallest kPassBits strides, and the others take as many each.
constexpr std::size_t kPassBits = 3;
constexpr std::size_t kSmallBits = 4;
constexpr std::size_t kInnerVectors = 8;  // weights of a chunk for the strides within it

// The weights of a pass, vector by vector in reading order, two in a word: the even one is the word's lower
// half shifted up, the odd one the word itself, whose low bits are part of its value.
struct Weights {
  const std::uint32_t* words;

  KSERVE_INLINE Vec operator[](std::size_t vector) const {
    const std::uint32_t* const p = words + vector / 2 * kLanes;
    return vector % 2 == 0 ? Vec::load_low_halves(p) : Vec::load_words(p);
  }
  // From the vector with this number on, which is even.
  KSERVE_INLINE Weights from(std::size_t vector) const { return {words + vector / 2 * kLanes}; }
};

// kRadix chunks of kRows rows in registers.
template <std::size_t kRows, std::size_t kRadix>
struct Group {
  Vec x[kRows][kRadix];
};

// One factor whose partners lie `distance` chunks apart within the group; weights pair by pair.
template <std::size_t kRows, std::size_t kRadix>
KSERVE_INLINE void outer_factor(Weights weights, Group<kRows, kRadix>& group, std::size_t distance) {
  KSERVE_UNROLL
  for (std::size_t pair = 0; pair < kRadix / 2; ++pair) {
    const std::size_t low = pair / distance * 2 * distance + pair % distance, high = low + distance;
    const Vec upper = weights[2 * pair], lower = weights[2 * pair + 1];
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      const Vec a = group.x[r][low], b = group.x[r][high];
      group.x[r][low] = Vec::fma(upper, b, a);
      group.x[r][high] = Vec::fma(lower, a, b);
    }
  }
}

// One factor within the chunks, number `factor` of them.
template <std::size_t kStride, std::size_t kRows, std::size_t kRadix>
KSERVE_INLINE void inner_factor(Weights weights, std::size_t factor, Group<kRows, kRadix>& group) {
  KSERVE_UNROLL
  for (std::size_t j = 0; j < kRadix; ++j) {
    const Vec w = weights[factor * kRadix + j];
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      Vec& x = group.x[r][j];
      x = Vec::fma(w, Vec::exchanged<kStride>(x), x);
    }
  }
}

// The middle factor, of stride 1, the only one with a diagonal: all diagonals, then all partners' weights.
template <std::size_t kRows, std::size_t kRadix>
KSERVE_INLINE void middle_factor(Weights weights, std::size_t factor, Group<kRows, kRadix>& group) {
  KSERVE_UNROLL
  for (std::size_t j = 0; j < kRadix; ++j) {
    const Vec diagonal = weights[factor * kRadix + j], partner = weights[(factor + 1) * kRadix + j];
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      Vec& x = group.x[r][j];
      x = Vec::fma(partner, Vec::exchanged<1>(x), diagonal * x);
    }
  }
}

// Everything within the chunks: strides 8, 4, 2, 1, 2, 4, 8.
template <std::size_t kRows, std::size_t kRadix>
KSERVE_INLINE void inner_factors(Weights weights, Group<kRows, kRadix>& group) {
  inner_factor<8>(weights, 0, group);
  inner_factor<4>(weights, 1, group);
  inner_factor<2>(weights, 2, group);
  middle_factor(weights, 3, group);
  inner_factor<2>(weights, 5, group);
  inner_factor<4>(weights, 6, group);
  inner_factor<8>(weights, 7, group);
}

// Largest stride first.
template <std::size_t kBits>
struct Falling {
  static constexpr std::size_t kRadix = std::size_t{1} << kBits;
  static constexpr std::size_t kVectors = kBits * kRadix;  // of weights, for a group

  template <std::size_t kRows>
  static KSERVE_INLINE void run(Weights weights, Group<kRows, kRadix>& group) {
    KSERVE_UNROLL
    for (std::size_t f = 0; f < kBits; ++f) {
      outer_factor(weights.from(f * kRadix), group, kRadix >> (f + 1));
    }
  }
};

// Smallest stride first.
template <std::size_t kBits>
struct Rising {
  static constexpr std::size_t kRadix = std::size_t{1} << kBits;
  static constexpr std::size_t kVectors = kBits * kRadix;

  template <std::size_t kRows>
  static KSERVE_INLINE void run(Weights weights, Group<kRows, kRadix>& group) {
    KSERVE_UNROLL
    for (std::size_t f = 0; f < kBits; ++f) {
      outer_factor(weights.from(f * kRadix), group, std::size_t{1} << f);
    }
  }
};

// Between two pairs: rising, then falling without the largest stride, whose two factors are one.
template <std::size_t kBits>
struct Turn {
  static constexpr std::size_t kRadix = std::size_t{1} << kBits;
  static constexpr std::size_t kVectors = (2 * kBits - 1) * kRadix;

  template <std::size_t kRows>
  static KSERVE_INLINE void run(Weights weights, Group<kRows, kRadix>& group) {
    Rising<kBits>::run(weights, group);
    KSERVE_UNROLL
    for (std::size_t f = 1; f < kBits; ++f) {
      outer_factor(weights.from((kBits + f - 1) * kRadix), group, kRadix >> (f + 1));
    }
  }
};

// Around the middle of a pair: falling, within the chunks, rising. kSkip: how many of the largest strides the
// falling part leaves out, 1 where the pair before has done the largest.
template <std::size_t kBits, std::size_t kSkip>
struct Middle {
  static constexpr std::size_t kRadix = std::size_t{1} << kBits;
  static constexpr std::size_t kFalling = kBits - kSkip;
  static constexpr std::size_t kVectors = (kFalling + kInnerVectors + kBits) * kRadix;

  template <std::size_t kRows>
  static KSERVE_INLINE void run(Weights weights, Group<kRows, kRadix>& group) {
    KSERVE_UNROLL
    for (std::size_t f = 0; f < kFalling; ++f) {
      outer_factor(weights.from(f * kRadix), group, kRadix >> (kSkip + f + 1));
    }
    inner_factors(weights.from(kFalling * kRadix), group);
    Rising<kBits>::run(weights.from((kFalling + kInnerVectors) * kRadix), group);
  }
};

// Chunks of one row, `stride` floats apart from the first of a group on.
struct Chunks {
  float* first;
  std::size_t stride;

  KSERVE_INLINE Vec load(std::size_t j) const { return Vec::load(first + j * stride); }
  KSERVE_INLINE void store(std::size_t j, Vec x) const { x.store(first + j * stride); }
};

// A group of chunks: base, base + step, ...
struct Place {
  std::size_t base, step;
};

// The rows in work, (inner / 16, rows, 16). The chunks of all rows at one place stand together, or the stores
// of one row would look like the loads of another to the processor, which compares addresses modulo 4096
// first.
struct Work {
  float* values;
  std::size_t rows;

  KSERVE_INLINE Chunks chunks(std::size_t row, const Place& place) const {
    return {values + (place.base * rows + row) * kLanes, place.step * rows * kLanes};
  }
};

template <std::size_t kRows, class Pass, class In, class Out>
KSERVE_INLINE void run_group(Weights weights, const In& in, const Out& out, std::size_t row,
                             const Place& place) {
  Group<kRows, Pass::kRadix> group;
  KSERVE_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) {
    const auto chunks = in.chunks(row + r, place);
    KSERVE_UNROLL
    for (std::size_t j = 0; j < Pass::kRadix; ++j) group.x[r][j] = chunks.load(j);
  }
  Pass::run(weights, group);
  KSERVE_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) {
    const auto chunks = out.chunks(row + r, place);
    KSERVE_UNROLL
    for (std::size_t j = 0; j < Pass::kRadix; ++j) chunks.store(j, group.x[r][j]);
  }
}

// The rows of a square: how many, and how many chunks each has.
struct Extent {
  std::size_t rows, chunks;
};

// Rows that share a loaded weight, as many as registers hold.
template <class Pass>
constexpr std::size_t kRowsTogether = Vec::kRegs == 1 && Pass::kRadix <= 8 ? 2 : 1;

// A pass over all groups of a square; `step` is its smallest stride in chunks. Returns the next weight.
template <class Pass, class In, class Out>
const std::uint32_t* run_pass(const std::uint32_t* words, const In& in, const Out& out, const Extent& extent,
                              std::size_t step) {
  constexpr std::size_t kTogether = kRowsTogether<Pass>;
  const std::size_t span = step * Pass::kRadix;
  for (std::size_t outer = 0; outer < extent.chunks; outer += span) {
    for (std::size_t base = outer; base < outer + step; ++base, words += Pass::kVectors / 2 * kLanes) {
      const Place place{base, step};
      std::size_t row = 0;
      for (; row + kTogether <= extent.rows; row += kTogether) {
        run_group<kTogether, Pass>({words}, in, out, row, place);
      }
      for (; row < extent.rows; ++row) run_group<1, Pass>({words}, in, out, row, place);
    }
  }
  return words;
}

}  // namespace
}  // namespace kserve::kernels
