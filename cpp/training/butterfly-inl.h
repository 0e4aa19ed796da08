// The butterfly passes of butterfly.h, written once over the physical register Reg of the instruction set.
#pragma once

#include "kernels/lanes-inl.h"
#include "training/butterfly.h"

namespace kserve::training {
namespace {

using kernels::Reg;

// A 2x2 block applied to a pair, and its transpose.
struct Block {
  Reg t00, t01, t10, t11;

  static KSERVE_INLINE Block load(const float* t) {
    return {Reg::broadcast(t[0]), Reg::broadcast(t[1]), Reg::broadcast(t[2]), Reg::broadcast(t[3])};
  }
  KSERVE_INLINE void apply(Reg& a, Reg& b) const {
    const Reg upper = Reg::fma(t01, b, t00 * a);
    b = Reg::fma(t11, b, t10 * a);
    a = upper;
  }
  KSERVE_INLINE void apply_transposed(Reg& a, Reg& b) const {
    const Reg upper = Reg::fma(t10, b, t00 * a);
    b = Reg::fma(t11, b, t01 * a);
    a = upper;
  }
};

// sums[0..3] += gradient (a, b) times input (x, y) of one pair: the gradient of its four twiddles.
KSERVE_INLINE void add_outer(Reg a, Reg b, Reg x, Reg y, Reg* sums) {
  sums[0] = Reg::fma(a, x, sums[0]);
  sums[1] = Reg::fma(a, y, sums[1]);
  sums[2] = Reg::fma(b, x, sums[2]);
  sums[3] = Reg::fma(b, y, sums[3]);
}

// Calls one(block, level) or two(block, first level, second level, pass) in the order of application.
template <class One, class Two>
KSERVE_INLINE void walk_block(std::size_t log_n, std::size_t block, One one, Two two) {
  std::size_t pass = block * ((log_n + 1) / 2);
  for (std::size_t done = 0; done < log_n; done += 2, ++pass) {
    const bool falling = block % 2 == 0;
    const std::size_t first = falling ? log_n - 1 - done : done;
    if (done + 1 == log_n) {
      one(first, pass);
    } else {
      two(first, falling ? first - 1 : first + 1, pass);
    }
  }
}

KSERVE_INLINE const float* factor(const Butterfly& square, std::size_t block, std::size_t level) {
  return square.twiddle + ((block * square.log_n + level) << (square.log_n + 1));
}

// Calls body(lowest element, pair) for the groups of four elements at distance `stride` that a pass of
// strides `stride` and 2 `stride` mixes; their pairs are `pair` and `pair + stride`, in both factors.
template <class Body>
KSERVE_INLINE void for_each_four(std::size_t n, std::size_t stride, Body body) {
  for (std::size_t start = 0; start < n; start += 4 * stride) {
    for (std::size_t j = 0; j < stride; ++j) body(start + j, start / 2 + j);
  }
}

template <class Body>
KSERVE_INLINE void for_each_pair(std::size_t n, std::size_t stride, Body body) {
  for (std::size_t start = 0; start < n; start += 2 * stride) {
    for (std::size_t j = 0; j < stride; ++j) body(start + j, start / 2 + j);
  }
}

// One factor. in and out (n, kTileRows) may be the same.
void single_pass(const float* t, std::size_t n, std::size_t stride, const float* in, float* out) {
  for_each_pair(n, stride, [=](std::size_t low, std::size_t pair) {
    const Block block = Block::load(t + 4 * pair);
    const std::size_t a = low * kTileRows, b = (low + stride) * kTileRows;
    for (std::size_t r = 0; r < kTileRows; r += Reg::kWidth) {
      Reg x = Reg::load(in + a + r), y = Reg::load(in + b + r);
      block.apply(x, y);
      x.store(out + a + r);
      y.store(out + b + r);
    }
  });
}

// Two factors; kFalling: the wider stride comes first. `middle` is their smaller stride.
template <bool kFalling>
void double_pass(const float* first, const float* second, std::size_t n, std::size_t middle, const float* in,
                 float* out) {
  constexpr std::size_t kInner = kFalling ? 2 : 1;  // element paired with element 0 by the first factor
  constexpr std::size_t kOuter = 3 - kInner;
  for_each_four(n, middle, [=](std::size_t low, std::size_t pair) {
    const std::size_t step = middle * kTileRows, base = low * kTileRows, next = 4 * (pair + middle);
    const Block f0 = Block::load(first + 4 * pair), f1 = Block::load(first + next);
    const Block s0 = Block::load(second + 4 * pair), s1 = Block::load(second + next);
    for (std::size_t r = 0; r < kTileRows; r += Reg::kWidth) {
      Reg x[4];
      KSERVE_UNROLL
      for (std::size_t e = 0; e < 4; ++e) x[e] = Reg::load(in + base + e * step + r);
      f0.apply(x[0], x[kInner]);
      f1.apply(x[kOuter], x[3]);
      s0.apply(x[0], x[kOuter]);
      s1.apply(x[kInner], x[3]);
      KSERVE_UNROLL
      for (std::size_t e = 0; e < 4; ++e) x[e].store(out + base + e * step + r);
    }
  });
}

void run_two(const Butterfly& square, std::size_t block, std::size_t first, std::size_t second,
             const float* in, float* out) {
  const std::size_t n = std::size_t{1} << square.log_n;
  const float* f = factor(square, block, first);
  const float* s = factor(square, block, second);
  if (first > second) {
    double_pass<true>(f, s, n, std::size_t{1} << second, in, out);
  } else {
    double_pass<false>(f, s, n, std::size_t{1} << first, in, out);
  }
}

void butterfly_forward(const Butterfly& square, float* tile) {
  const std::size_t n = std::size_t{1} << square.log_n;
  for (std::size_t block = 0; block < square.blocks; ++block) {
    walk_block(
        square.log_n, block,
        [&](std::size_t level, std::size_t) {
          single_pass(factor(square, block, level), n, std::size_t{1} << level, tile, tile);
        },
        [&](std::size_t first, std::size_t second, std::size_t) {
          run_two(square, block, first, second, tile, tile);
        });
  }
}

void butterfly_save_passes(const Butterfly& square, float* saved) {
  const std::size_t n = std::size_t{1} << square.log_n, part = n * kTileRows;
  const std::size_t last = butterfly_passes(square.log_n, square.blocks) - 1;
  for (std::size_t block = 0; block < square.blocks; ++block) {
    walk_block(
        square.log_n, block,
        [&](std::size_t level, std::size_t pass) {
          if (pass == last) return;
          const float* in = saved + pass * part;
          single_pass(factor(square, block, level), n, std::size_t{1} << level, in,
                      saved + (pass + 1) * part);
        },
        [&](std::size_t first, std::size_t second, std::size_t pass) {
          if (pass == last) return;
          run_two(square, block, first, second, saved + pass * part, saved + (pass + 1) * part);
        });
  }
}

// Adds the lane sums of 4 * count registers to `count` groups of four numbers.
template <std::size_t kCount>
KSERVE_INLINE void add_sums(const Reg* sums, float* const (&targets)[kCount]) {
  alignas(64) float totals[4 * kCount];
  Reg::lane_sums(sums, 4 * kCount, totals);
  for (std::size_t i = 0; i < kCount; ++i) {
    for (std::size_t e = 0; e < 4; ++e) targets[i][e] += totals[4 * i + e];
  }
}

void single_backward(const float* t, std::size_t n, std::size_t stride, const float* in, float* grad,
                     float* grad_t) {
  for_each_pair(n, stride, [=](std::size_t low, std::size_t pair) {
    const Block block = Block::load(t + 4 * pair);
    const std::size_t a = low * kTileRows, b = (low + stride) * kTileRows;
    Reg sums[4] = {Reg::broadcast(0.0F), Reg::broadcast(0.0F), Reg::broadcast(0.0F), Reg::broadcast(0.0F)};
    for (std::size_t r = 0; r < kTileRows; r += Reg::kWidth) {
      Reg x = Reg::load(grad + a + r), y = Reg::load(grad + b + r);
      add_outer(x, y, Reg::load(in + a + r), Reg::load(in + b + r), sums);
      block.apply_transposed(x, y);
      x.store(grad + a + r);
      y.store(grad + b + r);
    }
    float* const targets[1] = {grad_t + 4 * pair};
    add_sums(sums, targets);
  });
}

// Where the two factors of a pass and their gradients lie.
struct TwoFactors {
  const float *first, *second;
  float *grad_first, *grad_second;
};

template <bool kFalling>
void double_backward(const TwoFactors& f, std::size_t n, std::size_t middle, const float* in, float* grad) {
  constexpr std::size_t kInner = kFalling ? 2 : 1;
  constexpr std::size_t kOuter = 3 - kInner;
  for_each_four(n, middle, [=](std::size_t low, std::size_t pair) {
    const std::size_t step = middle * kTileRows, base = low * kTileRows, at = 4 * pair,
                      next = 4 * (pair + middle);
    const Block f0 = Block::load(f.first + at), f1 = Block::load(f.first + next);
    const Block s0 = Block::load(f.second + at), s1 = Block::load(f.second + next);
    Reg sums[16];
    KSERVE_UNROLL
    for (std::size_t i = 0; i < 16; ++i) sums[i] = Reg::broadcast(0.0F);
    for (std::size_t r = 0; r < kTileRows; r += Reg::kWidth) {
      Reg x[4], z[4], g[4];
      KSERVE_UNROLL
      for (std::size_t e = 0; e < 4; ++e) {
        x[e] = z[e] = Reg::load(in + base + e * step + r);
        g[e] = Reg::load(grad + base + e * step + r);
      }
      f0.apply(z[0], z[kInner]);
      f1.apply(z[kOuter], z[3]);
      add_outer(g[0], g[kOuter], z[0], z[kOuter], sums + 8);
      add_outer(g[kInner], g[3], z[kInner], z[3], sums + 12);
      s0.apply_transposed(g[0], g[kOuter]);
      s1.apply_transposed(g[kInner], g[3]);
      add_outer(g[0], g[kInner], x[0], x[kInner], sums);
      add_outer(g[kOuter], g[3], x[kOuter], x[3], sums + 4);
      f0.apply_transposed(g[0], g[kInner]);
      f1.apply_transposed(g[kOuter], g[3]);
      KSERVE_UNROLL
      for (std::size_t e = 0; e < 4; ++e) g[e].store(grad + base + e * step + r);
    }
    float* const targets[4] = {f.grad_first + at, f.grad_first + next, f.grad_second + at,
                               f.grad_second + next};
    add_sums(sums, targets);
  });
}

// One block, its passes in reverse.
void block_backward(const Butterfly& square, std::size_t block, const float* saved, float* grad,
                    float* grad_twiddle) {
  const std::size_t n = std::size_t{1} << square.log_n, part = n * kTileRows;
  const bool falling = block % 2 == 0;
  const std::size_t passes = (square.log_n + 1) / 2;
  for (std::size_t back = passes; back-- > 0;) {
    const float* in = saved + (block * passes + back) * part;
    const std::size_t done = 2 * back;
    const std::size_t first = falling ? square.log_n - 1 - done : done;
    const float* f = factor(square, block, first);
    float* grad_f = grad_twiddle + (f - square.twiddle);
    if (done + 1 == square.log_n) {
      single_backward(f, n, std::size_t{1} << first, in, grad, grad_f);
      continue;
    }
    const float* s = factor(square, block, falling ? first - 1 : first + 1);
    const TwoFactors two = {f, s, grad_f, grad_twiddle + (s - square.twiddle)};
    if (falling) {
      double_backward<true>(two, n, std::size_t{1} << (first - 1), in, grad);
    } else {
      double_backward<false>(two, n, std::size_t{1} << first, in, grad);
    }
  }
}

void butterfly_backward(const Butterfly& square, const float* saved, float* grad, float* grad_twiddle) {
  for (std::size_t block = square.blocks; block-- > 0;)
    block_backward(square, block, saved, grad, grad_twiddle);
}

// Copies a (rows, columns) corner transposed, element by element.
KSERVE_INLINE void transpose_corner(const float* x, std::size_t x_stride, std::size_t rows,
                                    std::size_t columns, float* y, std::size_t y_stride) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t j = 0; j < columns; ++j) y[j * y_stride + i] = x[i * x_stride + j];
  }
}

// y (columns, rows) = x (rows, columns) transposed, in squares of one register's width.
void transpose(const float* x, std::size_t x_stride, std::size_t rows, std::size_t columns, float* y,
               std::size_t y_stride) {
  constexpr std::size_t kWidth = Reg::kWidth;
  const std::size_t whole_rows = rows / kWidth * kWidth, whole_columns = columns / kWidth * kWidth;
  for (std::size_t i = 0; i < whole_rows; i += kWidth) {
    for (std::size_t j = 0; j < whole_columns; j += kWidth) {
      Reg square[kWidth];
      KSERVE_UNROLL
      for (std::size_t e = 0; e < kWidth; ++e) square[e] = Reg::load(x + (i + e) * x_stride + j);
      Reg::transpose(square);
      KSERVE_UNROLL
      for (std::size_t e = 0; e < kWidth; ++e) square[e].store(y + (j + e) * y_stride + i);
    }
  }
  transpose_corner(x + whole_columns, x_stride, whole_rows, columns - whole_columns,
                   y + whole_columns * y_stride, y_stride);
  transpose_corner(x + whole_rows * x_stride, x_stride, rows - whole_rows, columns, y + whole_rows, y_stride);
}

void load_tile(const float* x, std::size_t stride, std::size_t rows, std::size_t columns, std::size_t n,
               float* tile) {
  if (rows < kTileRows) {
    for (std::size_t i = 0; i < columns * kTileRows; ++i) tile[i] = 0.0F;
  }
  transpose(x, stride, rows, columns, tile, kTileRows);
  for (std::size_t i = columns * kTileRows; i < n * kTileRows; ++i) tile[i] = 0.0F;
}

void store_tile(const float* tile, std::size_t rows, std::size_t columns, float* y, std::size_t stride) {
  transpose(tile, kTileRows, columns, rows, y, stride);
}

void add_tile(const float* tile, std::size_t n, float* sum) {
  for (std::size_t i = 0; i < n * kTileRows; i += Reg::kWidth) {
    (Reg::load(sum + i) + Reg::load(tile + i)).store(sum + i);
  }
}

}  // namespace
}  // namespace kserve::training
