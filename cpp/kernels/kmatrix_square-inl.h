// The passes of one square of a K-matrix, in their order: run, or told.
#pragma once

#include "kernels/kmatrix_pass-inl.h"

namespace kserve::kernels {
namespace {

// One square for the rows in work.
struct Square {
  const std::uint32_t* words;  // of the next pass
  std::size_t bits;            // log2 of its chunks
  std::size_t width;
  Extent extent;
  Work work;

  template <class Pass, class In, class Out>
  void run(const In& in, const Out& out, std::size_t low) {
    words = run_pass<Pass>(words, in, out, extent, std::size_t{1} << low);
  }
};

// Tells the passes of a square instead of running them: it takes the place of a Square.
struct PassList {
  std::size_t bits, width;
  Work work;
  PassForm* forms;
  std::size_t most, count;

  template <class Pass, class In, class Out>
  void run(const In&, const Out&, std::size_t) {
    if (count < most) forms[count] = {Pass::kRadix, kRowsTogether<Pass>};
    ++count;
  }
};

// A pass over the strides 2^low ... 2^(low + count - 1), in chunks.
template <template <std::size_t> class Pass, class AnySquare, class In, class Out>
void run_strides(AnySquare& square, const In& in, const Out& out, std::size_t low, std::size_t count) {
  if (count == 1) return square.template run<Pass<1>>(in, out, low);
  if (count == 2) return square.template run<Pass<2>>(in, out, low);
  square.template run<Pass<3>>(in, out, low);
}

// Passes over the strides from 2^(high - 1) down to the middle's, cut from the largest on.
template <class AnySquare, class In>
void run_falling(AnySquare& square, const In& in, std::size_t high) {
  if (high == kPassBits) return;
  const std::size_t left = high - kPassBits, count = left < kPassBits ? left : kPassBits;
  run_strides<Falling>(square, in, square.work, high - count, count);
  run_falling(square, square.work, high - count);
}

// The same cuts upwards, but for the last pass, which is left to the caller: returns its smallest stride's
// log2.
template <class AnySquare>
std::size_t run_rising(AnySquare& square) {
  std::size_t low = kPassBits;
  while (square.bits - low > kPassBits) {
    const std::size_t rest = (square.bits - low) % kPassBits, count = rest == 0 ? kPassBits : rest;
    run_strides<Rising>(square, square.work, square.work, low, count);
    low += count;
  }
  return low;
}

template <class AnySquare, class In, class Out>
void run_large(AnySquare& square, const In& in, const Out& out) {
  run_falling(square, in, square.bits);
  square.template run<Middle<kPassBits, 0>>(square.work, square.work, 0);
  std::size_t low = run_rising(square);
  for (std::size_t pair = 1; pair < square.width; ++pair) {
    run_strides<Turn>(square, square.work, square.work, low, square.bits - low);
    run_falling(square, square.work, low);
    square.template run<Middle<kPassBits, 0>>(square.work, square.work, 0);
    low = run_rising(square);
  }
  run_strides<Rising>(square, square.work, out, low, square.bits - low);
}

// One pass a pair.
template <std::size_t kBits, class AnySquare, class In, class Out>
void run_small(AnySquare& square, const In& in, const Out& out) {
  constexpr std::size_t kSkip = kBits == 0 ? 0 : 1;
  if (square.width == 1) return square.template run<Middle<kBits, 0>>(in, out, 0);
  square.template run<Middle<kBits, 0>>(in, square.work, 0);
  for (std::size_t pair = 2; pair < square.width; ++pair) {
    square.template run<Middle<kBits, kSkip>>(square.work, square.work, 0);
  }
  square.template run<Middle<kBits, kSkip>>(square.work, out, 0);
}

template <class AnySquare, class In, class Out>
void run_square(AnySquare& square, const In& in, const Out& out) {
  static_assert(kSmallBits == 4);
  switch (square.bits) {
    case 0:
      return run_small<0>(square, in, out);
    case 1:
      return run_small<1>(square, in, out);
    case 2:
      return run_small<2>(square, in, out);
    case 3:
      return run_small<3>(square, in, out);
    case 4:
      return run_small<4>(square, in, out);
    default:
      return run_large(square, in, out);
  }
}

}  // namespace
}  // namespace kserve::kernels
