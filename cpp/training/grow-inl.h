// A K-matrix multiplied out from its middle. With X = diag(A, B) of blocks of s, one step to blocks of 2 s is
//
//   [ f00 A  f01 B ]  with columns mixed:   column j     = g00[j] * left + g10[j] * right
//   [ f10 A  f11 B ]                        column j + s = g01[j] * left + g11[j] * right
//
// (f by row, g by column): three operations for each of its numbers, and all steps together have 2 n^2
// numbers, where the product of B and B* would take n^3. While blocks are smaller than a vector, lanes are
// blocks; then columns.
#pragma once

#include "training/butterfly-inl.h"
#include "training/storage-inl.h"

namespace kserve::training {
namespace {

struct Quarter {
  Vec top_left, top_right, bottom_left, bottom_right;
};

KSERVE_INLINE Quarter grow_four(Vec a, Vec b, const Vec* f, const Vec* g) {
  const Vec p0 = g[0] * a, p1 = g[1] * a, q0 = g[2] * b, q1 = g[3] * b;
  return {Vec::fma(f[1], q0, f[0] * p0), Vec::fma(f[1], q1, f[0] * p1), Vec::fma(f[3], q0, f[2] * p0),
          Vec::fma(f[3], q1, f[2] * p1)};
}

// Gradients of a, b; and added to those of f and g.
KSERVE_INLINE void grow_four_backward(const Quarter& grad, Vec* ab, const Vec* f, const Vec* g, Vec* grad_f,
                                      Vec* grad_g) {
  const Vec a = ab[0], b = ab[1];
  const Vec r0 = Vec::fma(f[2], grad.bottom_left, f[0] * grad.top_left);
  const Vec r1 = Vec::fma(f[2], grad.bottom_right, f[0] * grad.top_right);
  const Vec t0 = Vec::fma(f[3], grad.bottom_left, f[1] * grad.top_left);
  const Vec t1 = Vec::fma(f[3], grad.bottom_right, f[1] * grad.top_right);
  const Vec p0 = g[0] * a, p1 = g[1] * a, q0 = g[2] * b, q1 = g[3] * b;
  ab[0] = Vec::fma(g[1], r1, g[0] * r0);
  ab[1] = Vec::fma(g[3], t1, g[2] * t0);
  grad_g[0] = Vec::fma(a, r0, grad_g[0]);
  grad_g[1] = Vec::fma(a, r1, grad_g[1]);
  grad_g[2] = Vec::fma(b, t0, grad_g[2]);
  grad_g[3] = Vec::fma(b, t1, grad_g[3]);
  grad_f[0] = Vec::fma(p1, grad.top_right, Vec::fma(p0, grad.top_left, grad_f[0]));
  grad_f[1] = Vec::fma(q1, grad.top_right, Vec::fma(q0, grad.top_left, grad_f[1]));
  grad_f[2] = Vec::fma(p1, grad.bottom_right, Vec::fma(p0, grad.bottom_left, grad_f[2]));
  grad_f[3] = Vec::fma(q1, grad.bottom_right, Vec::fma(q0, grad.bottom_left, grad_f[3]));
}

KSERVE_INLINE void load_four(const float* p, std::size_t step, Vec* x) {
  KSERVE_UNROLL
  for (std::size_t e = 0; e < 4; ++e) x[e] = Vec::load(p + e * step);
}

KSERVE_INLINE void store_four(const Vec* x, float* p, std::size_t step) {
  KSERVE_UNROLL
  for (std::size_t e = 0; e < 4; ++e) x[e].store(p + e * step);
}

// ---- blocks of up to 16: 16 of them at once, block l in lane l
// -------------------------------------------------

// Places of one pair (row i, column j) of sub-block `sub` in a step from s to 2 s.
struct BasePlace {
  std::size_t a, b, f, g, corner, s;
};

template <class Body>
KSERVE_INLINE void for_each_base_place(std::size_t base, std::size_t s, Body body) {
  for (std::size_t sub = 0; sub < base / (2 * s); ++sub) {
    for (std::size_t i = 0; i < s; ++i) {
      for (std::size_t j = 0; j < s; ++j) {
        const std::size_t a = (2 * sub * s + i) * s + j;
        body(BasePlace{a * kLanes, (a + s * s) * kLanes, 4 * (sub * s + i) * kLanes,
                       4 * (sub * s + j) * kLanes, ((2 * sub * s + i) * 2 * s + j) * kLanes, s});
      }
    }
  }
}

KSERVE_INLINE Quarter load_quarter(const float* corner, std::size_t s, std::size_t unit) {
  const std::size_t row = 2 * s * s * unit, column = s * unit;
  return {Vec::load(corner), Vec::load(corner + column), Vec::load(corner + row),
          Vec::load(corner + row + column)};
}

KSERVE_INLINE void store_quarter(const Quarter& x, float* corner, std::size_t s, std::size_t unit) {
  const std::size_t row = 2 * s * s * unit, column = s * unit;
  x.top_left.store(corner);
  x.top_right.store(corner + column);
  x.bottom_left.store(corner + row);
  x.bottom_right.store(corner + row + column);
}

// What the small steps of up to 16 base blocks need; each array has lanes innermost.
struct BaseGroup {
  std::size_t log_base, first, count;  // base blocks first ... first + count - 1
  float *f, *g;                        // twiddles (log_base, base / 2, 4)
  float* steps;                        // the blocks before step 0, 1 ..., and after the last

  std::size_t base() const { return std::size_t{1} << log_base; }
  std::size_t pair_floats() const { return 2 * base() * kLanes; }  // of one factor
  float* blocks(std::size_t step) const { return steps + base() * ((std::size_t{1} << step) - 1) * kLanes; }
};

void load_base_twiddles(const BaseGroup& group, const float* factors, std::size_t n, float* lanes) {
  const std::size_t own = 2 * group.base();
  for (std::size_t level = 0; level < group.log_base; ++level) {
    transpose(factors + level * 2 * n + group.first * own, own, group.count, own,
              lanes + level * group.pair_floats(), kLanes);
  }
}

void store_base_twiddles(const BaseGroup& group, const float* lanes, std::size_t n, float* factors) {
  const std::size_t own = 2 * group.base();
  for (std::size_t level = 0; level < group.log_base; ++level) {
    transpose(lanes + level * group.pair_floats(), kLanes, own, group.count,
              factors + level * 2 * n + group.first * own, own);
  }
}

void grow_base(const BaseGroup& group) {
  float* const ones = group.blocks(0);
  for (std::size_t i = 0; i < group.base() * kLanes; ++i) ones[i] = 1.0F;
  for (std::size_t level = 0; level < group.log_base; ++level) {
    const float *x = group.blocks(level), *tf = group.f + level * group.pair_floats(),
                *tg = group.g + level * group.pair_floats();
    float* const y = group.blocks(level + 1);
    for_each_base_place(group.base(), std::size_t{1} << level, [=](const BasePlace& at) {
      Vec f[4], g[4];
      load_four(tf + at.f, kLanes, f);
      load_four(tg + at.g, kLanes, g);
      store_quarter(grow_four(Vec::load(x + at.a), Vec::load(x + at.b), f, g), y + at.corner, at.s, kLanes);
    });
  }
}

// The gradient of the last blocks lies in `grads` and is overwritten by that of the blocks before it, and so
// on; the two halves of `grads` take turns. grad_f and grad_g are like f and g, and zero.
void grow_base_backward(const BaseGroup& group, float* const (&grads)[2], float* grad_f, float* grad_g) {
  for (std::size_t level = group.log_base; level-- > 0;) {
    const std::size_t twiddles = level * group.pair_floats(), side = (group.log_base - level) % 2;
    const float *x = group.blocks(level), *tf = group.f + twiddles, *tg = group.g + twiddles;
    const float* const grad_y = grads[1 - side];
    float *const grad_x = grads[side], *const gf = grad_f + twiddles, *const gg = grad_g + twiddles;
    for_each_base_place(group.base(), std::size_t{1} << level, [=](const BasePlace& at) {
      Vec f[4], g[4], own_f[4], own_g[4], ab[2] = {Vec::load(x + at.a), Vec::load(x + at.b)};
      load_four(tf + at.f, kLanes, f);
      load_four(tg + at.g, kLanes, g);
      load_four(gf + at.f, kLanes, own_f);
      load_four(gg + at.g, kLanes, own_g);
      grow_four_backward(load_quarter(grad_y + at.corner, at.s, kLanes), ab, f, g, own_f, own_g);
      store_four(own_f, gf + at.f, kLanes);
      store_four(own_g, gg + at.g, kLanes);
      ab[0].store(grad_x + at.a);
      ab[1].store(grad_x + at.b);
    });
  }
}

// ---- larger blocks: 16 columns at once
// --------------------------------------------------------------------------

// One step from blocks of s to blocks of 2 s. Column twiddles g (4, n / 2): each number in an array of its
// own.
struct Step {
  std::size_t n, s;
  const float *f, *g;   // f (n / 2, 4)
  const float* blocks;  // (n / s, s, s)
};

// Row i of both halves of the doubled block `sub`: top and bottom (2 s).
KSERVE_INLINE void grow_row(const Step& step, std::size_t sub, std::size_t i, float* top, float* bottom) {
  const std::size_t s = step.s, pair = sub * s + i, half = step.n / 2;
  const float *a = step.blocks + (2 * sub * s + i) * s, *b = a + s * s, *g = step.g + sub * s;
  Vec f[4];
  KSERVE_UNROLL
  for (std::size_t e = 0; e < 4; ++e) f[e] = Vec::broadcast(step.f[4 * pair + e]);
  for (std::size_t j = 0; j < s; j += kLanes) {
    Vec own[4];
    load_four(g + j, half, own);
    const Quarter x = grow_four(Vec::load(a + j), Vec::load(b + j), f, own);
    x.top_left.store(top + j);
    x.top_right.store(top + s + j);
    x.bottom_left.store(bottom + j);
    x.bottom_right.store(bottom + s + j);
  }
}

struct StepGrads {
  float *f, *g;   // as in Step; g is added to
  float* blocks;  // gradient of the smaller blocks
};

KSERVE_INLINE void grow_row_backward(const Step& step, const StepGrads& grads, std::size_t sub, std::size_t i,
                                     const float* top, const float* bottom) {
  const std::size_t s = step.s, pair = sub * s + i, half = step.n / 2, row = (2 * sub * s + i) * s;
  const float *a = step.blocks + row, *b = a + s * s, *g = step.g + sub * s;
  float *grad_a = grads.blocks + row, *grad_b = grad_a + s * s, *grad_g = grads.g + sub * s;
  Vec f[4], grad_f[4];
  KSERVE_UNROLL
  for (std::size_t e = 0; e < 4; ++e) {
    f[e] = Vec::broadcast(step.f[4 * pair + e]);
    grad_f[e] = Vec::zero();
  }
  for (std::size_t j = 0; j < s; j += kLanes) {
    Vec own[4], own_grad[4], ab[2] = {Vec::load(a + j), Vec::load(b + j)};
    load_four(g + j, half, own);
    load_four(grad_g + j, half, own_grad);
    const Quarter grad = {Vec::load(top + j), Vec::load(top + s + j), Vec::load(bottom + j),
                          Vec::load(bottom + s + j)};
    grow_four_backward(grad, ab, f, own, grad_f, own_grad);
    store_four(own_grad, grad_g + j, half);
    ab[0].store(grad_a + j);
    ab[1].store(grad_b + j);
  }
  Vec::four_sums(grad_f, grads.f + 4 * pair);
}

// ---- a whole matrix
// ---------------------------------------------------------------------------------------------

// Scratch of one matrix, cut up. levels: the blocks of 16, of 32, ... of n / 2; rows: two rows of n.
struct GrowthMemory {
  std::size_t n, log_base;
  float *f, *g, *steps;  // of a base group
  float* columns;        // (log_n, 4, n / 2): G by number
  float* rows;
  float* levels;

  GrowthMemory(std::size_t log_n, float* scratch)
      : n(std::size_t{1} << log_n), log_base(log_n < kBaseLog ? log_n : kBaseLog) {
    f = scratch;
    g = f + kBaseTwiddles;
    steps = g + kBaseTwiddles;
    columns = steps + kBaseNumbers;
    rows = columns + 2 * n * log_n;
    levels = rows + 2 * n;
  }
  // The blocks that the step from 2^level enters with.
  float* blocks(std::size_t level) const {
    return levels + n * ((std::size_t{1} << level) - (std::size_t{1} << log_base));
  }
  BaseGroup group(std::size_t first) const {
    const std::size_t left = (n >> log_base) - first;
    return {log_base, first, left < kLanes ? left : kLanes, f, g, steps};
  }
};

// Lanes to blocks (n / base, base, base), and back.
void store_base_blocks(const BaseGroup& group, float* blocks) {
  const std::size_t numbers = group.base() * group.base();
  transpose(group.blocks(group.log_base), kLanes, numbers, group.count, blocks + group.first * numbers,
            numbers);
}
void load_base_blocks(const BaseGroup& group, const float* blocks, float* lanes) {
  const std::size_t numbers = group.base() * group.base();
  transpose(blocks + group.first * numbers, numbers, group.count, numbers, lanes, kLanes);
}

template <class T>
Step step_of(const Growth<T>& a, const GrowthMemory& memory, std::size_t level) {
  const std::size_t n = memory.n;
  return {n, std::size_t{1} << level, a.outer + level * 2 * n, memory.columns + level * 2 * n,
          memory.blocks(level)};
}

// All blocks that steps enter with; those of 2^log_n itself are left out.
template <class T>
void grow_levels(const Growth<T>& a, const GrowthMemory& memory) {
  const std::size_t n = memory.n;
  for (std::size_t first = 0; first < n >> memory.log_base; first += kLanes) {
    const BaseGroup group = memory.group(first);
    load_base_twiddles(group, a.outer, n, group.f);
    load_base_twiddles(group, a.inner, n, group.g);
    grow_base(group);
    store_base_blocks(group, memory.blocks(memory.log_base));
  }
  for (std::size_t level = memory.log_base; level < a.log_n; ++level) {
    transpose(a.inner + level * 2 * n, 4, n / 2, 4, memory.columns + level * 2 * n, n / 2);
  }
  for (std::size_t level = memory.log_base; level + 1 < a.log_n; ++level) {
    const Step step = step_of(a, memory, level);
    const std::size_t s = step.s;
    float* const next = memory.blocks(level + 1);
    for (std::size_t sub = 0; sub < n / (2 * s); ++sub) {
      for (std::size_t i = 0; i < s; ++i) {
        float* const top = next + (2 * sub * s + i) * 2 * s;
        grow_row(step, sub, i, top, top + 2 * s * s);
      }
    }
  }
}

template <class T>
KSERVE_INLINE void put_row(const Growth<T>& a, std::size_t row, const float* numbers) {
  if (row >= a.rows) return;
  each_vector(a.columns, [&](Lanes at) { at.put(at.of(numbers), a.matrix + row * a.stride); });
}

template <class T>
void grow(const Growth<T>& a, float* scratch) {
  const GrowthMemory memory(a.log_n, scratch);
  grow_levels(a, memory);
  const std::size_t n = memory.n;
  if (a.log_n == memory.log_base) {
    for (std::size_t row = 0; row < n; ++row) put_row(a, row, memory.levels + row * n);
    return;
  }
  const Step step = step_of(a, memory, a.log_n - 1);
  for (std::size_t i = 0; i < n / 2; ++i) {
    grow_row(step, 0, i, memory.rows, memory.rows + n);
    put_row(a, i, memory.rows);
    put_row(a, i + n / 2, memory.rows + n);
  }
}

// The gradient of row `row` of the whole matrix, zero where the matrix is cut.
template <class T>
KSERVE_INLINE void take_row(const Growth<T>& a, std::size_t row, std::size_t n, float* numbers) {
  std::size_t columns = 0;
  if (row < a.rows) {
    columns = a.columns;
    each_vector(columns, [&](Lanes at) { at.put(at.of(a.matrix + row * a.stride), numbers); });
  }
  for (std::size_t j = columns; j < n; ++j) numbers[j] = 0.0F;
}

// Scratch of the backward pass beyond that of the forward pass.
struct GrowthGrads {
  float *f, *g;      // of a base group
  float* lanes[2];   // gradients of a base group's blocks
  float* columns;    // (4, n / 2)
  float* blocks[2];  // gradients of the blocks of n / 2 and smaller, in turns

  GrowthGrads(std::size_t log_n, float* scratch) {
    const std::size_t n = std::size_t{1} << log_n;
    f = scratch + growth_scratch(log_n);
    g = f + kBaseTwiddles;
    lanes[0] = g + kBaseTwiddles;
    lanes[1] = lanes[0] + kBase * kBase * kLanes;
    columns = lanes[1] + kBase * kBase * kLanes;
    blocks[0] = columns + 2 * n;
    blocks[1] = blocks[0] + n * n / 2 + kBase * kBase;
  }
};

KSERVE_INLINE void clear(float* x, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) x[i] = 0.0F;
}

template <class T>
void step_backward(const GrowthBackward<T>& a, const GrowthMemory& memory, const GrowthGrads& grads,
                   std::size_t level) {
  const std::size_t n = memory.n, s = std::size_t{1} << level, side = (a.forward.log_n - level) % 2;
  const Step step = step_of(a.forward, memory, level);
  clear(grads.columns, 2 * n);
  const StepGrads own = {a.grad_outer + level * 2 * n, grads.columns, grads.blocks[side]};
  for (std::size_t sub = 0; sub < n / (2 * s); ++sub) {
    for (std::size_t i = 0; i < s; ++i) {
      const float* top = grads.blocks[1 - side] + (2 * sub * s + i) * 2 * s;
      const float* bottom = top + 2 * s * s;
      if (2 * s == n) {
        take_row(a.forward, i, n, memory.rows);
        take_row(a.forward, i + s, n, memory.rows + n);
        top = memory.rows;
        bottom = memory.rows + n;
      }
      grow_row_backward(step, own, sub, i, top, bottom);
    }
  }
  transpose(grads.columns, n / 2, 4, n / 2, a.grad_inner + level * 2 * n, 4);
}

template <class T>
void grow_backward(const GrowthBackward<T>& a, float* scratch) {
  const GrowthMemory memory(a.forward.log_n, scratch);
  const GrowthGrads grads(a.forward.log_n, scratch);
  const std::size_t n = memory.n, log_n = a.forward.log_n, log_base = memory.log_base;
  grow_levels(a.forward, memory);
  if (log_n == log_base) {
    for (std::size_t row = 0; row < n; ++row) take_row(a.forward, row, n, grads.blocks[0] + row * n);
  }
  for (std::size_t level = log_n; level-- > log_base;) step_backward(a, memory, grads, level);
  const float* const blocks = grads.blocks[(log_n - log_base) % 2];
  for (std::size_t first = 0; first < n >> log_base; first += kLanes) {
    const BaseGroup group = memory.group(first);
    load_base_twiddles(group, a.forward.outer, n, group.f);
    load_base_twiddles(group, a.forward.inner, n, group.g);
    grow_base(group);
    load_base_blocks(group, blocks, grads.lanes[0]);
    clear(grads.f, kBaseTwiddles);
    clear(grads.g, kBaseTwiddles);
    grow_base_backward(group, grads.lanes, grads.f, grads.g);
    store_base_twiddles(group, grads.f, n, a.grad_outer);
    store_base_twiddles(group, grads.g, n, a.grad_inner);
  }
}

}  // namespace
}  // namespace kserve::training
