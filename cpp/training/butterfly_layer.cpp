#include "training/butterfly_layer.h"

#include <algorithm>
#include <vector>

#include "engine/parallel.h"

namespace kserve::training {
namespace {

using Buffer = std::vector<float>;

// Rows first ... first + count - 1, at most kTileRows of them.
struct Rows {
  std::size_t first, count;
};

// Cuts the rows into one run of tiles per thread and calls body(thread index, rows of a tile) for each tile.
template <class MakeState, class Body>
void for_each_tile(std::size_t rows, std::size_t threads, MakeState make_state, Body body) {
  const std::size_t tiles = (rows + kTileRows - 1) / kTileRows;
  const std::size_t runs = std::max<std::size_t>(1, std::min(threads, tiles));
  parallel_for(runs, runs, [&](std::size_t run) {
    auto state = make_state(run);
    for (std::size_t t = tiles * run / runs; t < tiles * (run + 1) / runs; ++t) {
      body(state, Rows{t * kTileRows, std::min(kTileRows, rows - t * kTileRows)});
    }
  });
}

// The part of `size` features that tile number `index` of the grid covers.
std::size_t covered(std::size_t size, std::size_t tile, std::size_t index) {
  return std::min(tile, size - index * tile);
}

Butterfly square_at(const ButterflyLayer& layer, std::size_t r, std::size_t c) {
  const std::size_t stack = r * layer.grid_cols + c;
  return {layer.log_inner, layer.blocks, layer.twiddle + stack * layer.twiddles_per_square()};
}

// Loads all `count` tiles of x (rows, size), each padded to `inner` features: every one serves several
// squares, and turning rows into lanes costs as much as several factors.
void load_parts(const ButterflyLayer& layer, const float* x, std::size_t size, Rows rows, std::size_t count,
                Buffer& tiles) {
  for (std::size_t i = 0; i < count; ++i) {
    layer.table->load_tile(x + rows.first * size + i * layer.tile, size, rows.count,
                           covered(size, layer.tile, i), layer.inner(),
                           tiles.data() + i * layer.inner() * kTileRows);
  }
}

void copy_part(const ButterflyLayer& layer, const Buffer& tiles, std::size_t index, float* tile) {
  const std::size_t floats = layer.inner() * kTileRows;
  std::copy_n(tiles.data() + index * floats, floats, tile);
}

void store_part(const ButterflyLayer& layer, const float* tile, std::size_t size, Rows rows,
                std::size_t index, float* y) {
  layer.table->store_tile(tile, rows.count, covered(size, layer.tile, index),
                          y + rows.first * size + index * layer.tile, size);
}

void start_sum(const ButterflyLayer& layer, const float* bias, std::size_t r, Buffer& sum) {
  std::fill(sum.begin(), sum.end(), 0.0F);
  if (bias == nullptr) return;
  for (std::size_t i = 0; i < covered(layer.out, layer.tile, r); ++i) {
    std::fill_n(sum.begin() + static_cast<std::ptrdiff_t>(i * kTileRows), kTileRows,
                bias[r * layer.tile + i]);
  }
}

struct BackwardState {
  Buffer inputs, grads, saved, grad, sum;
  float* grad_twiddle;
};

void backward_tile(const ButterflyLayer& layer, const float* x, const float* grad_y, Rows rows, float* grad_x,
                   BackwardState& state) {
  load_parts(layer, x, layer.in, rows, layer.grid_cols, state.inputs);
  load_parts(layer, grad_y, layer.out, rows, layer.grid_rows, state.grads);
  for (std::size_t c = 0; c < layer.grid_cols; ++c) {
    std::fill(state.sum.begin(), state.sum.end(), 0.0F);
    for (std::size_t r = 0; r < layer.grid_rows; ++r) {
      const Butterfly square = square_at(layer, r, c);
      copy_part(layer, state.inputs, c, state.saved.data());
      layer.table->save_passes(square, state.saved.data());
      copy_part(layer, state.grads, r, state.grad.data());
      layer.table->backward(square, state.saved.data(), state.grad.data(),
                            state.grad_twiddle + (square.twiddle - layer.twiddle));
      layer.table->add_tile(state.grad.data(), layer.tile, state.sum.data());
    }
    store_part(layer, state.sum.data(), layer.in, rows, c, grad_x);
  }
}

}  // namespace

void butterfly_layer_forward(const ButterflyLayer& layer, const float* x, std::size_t rows, const float* bias,
                             float* y) {
  struct State {
    Buffer inputs, tile, sum;
  };
  const std::size_t floats = layer.inner() * kTileRows;
  for_each_tile(
      rows, layer.threads,
      [&](std::size_t) { return State{Buffer(layer.grid_cols * floats), Buffer(floats), Buffer(floats)}; },
      [&](State& state, Rows part) {
        load_parts(layer, x, layer.in, part, layer.grid_cols, state.inputs);
        for (std::size_t r = 0; r < layer.grid_rows; ++r) {
          start_sum(layer, bias, r, state.sum);
          for (std::size_t c = 0; c < layer.grid_cols; ++c) {
            copy_part(layer, state.inputs, c, state.tile.data());
            layer.table->forward(square_at(layer, r, c), state.tile.data());
            layer.table->add_tile(state.tile.data(), layer.tile, state.sum.data());
          }
          store_part(layer, state.sum.data(), layer.out, part, r, y);
        }
      });
}

void butterfly_layer_backward(const ButterflyLayer& layer, const float* x, const float* grad_y,
                              std::size_t rows, float* grad_x, float* grad_twiddle) {
  const std::size_t total = layer.grid_rows * layer.grid_cols * layer.twiddles_per_square();
  const std::size_t floats = layer.inner() * kTileRows,
                    passes = butterfly_passes(layer.log_inner, layer.blocks);
  std::vector<Buffer> partial(layer.threads);
  for_each_tile(
      rows, layer.threads,
      [&](std::size_t run) {
        if (run > 0) partial[run].assign(total, 0.0F);
        float* target = run > 0 ? partial[run].data() : grad_twiddle;
        if (run == 0) std::fill_n(target, total, 0.0F);
        return BackwardState{Buffer(layer.grid_cols * floats),
                             Buffer(layer.grid_rows * floats),
                             Buffer(passes * floats),
                             Buffer(floats),
                             Buffer(floats),
                             target};
      },
      [&](BackwardState& state, Rows part) { backward_tile(layer, x, grad_y, part, grad_x, state); });
  for (const Buffer& part : partial) {
    for (std::size_t i = 0; i < part.size(); ++i) grad_twiddle[i] += part[i];
  }
}

}  // namespace kserve::training
