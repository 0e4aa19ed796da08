// The embedding table, int8 with a scale per row, looked up. rank-inl.h multiplies with it.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

void embed(const std::int8_t* table_row, std::size_t n, float scale, const float* position, float* y) {
  const Vec factor = Vec::broadcast(scale);
  for_each_vector(
      n,
      [=](std::size_t i) {
        Vec::fma(Vec::load_int8(table_row + i), factor, Vec::load(position + i)).store(y + i);
      },
      [=](std::size_t i, std::size_t lanes) {
        const Vec row = Vec::load_int8_first(table_row + i, lanes);
        Vec::fma(row, factor, Vec::load_first(position + i, lanes)).store_first(y + i, lanes);
      });
}

}  // namespace
}  // namespace kserve::kernels
