// What the machine can do at best with one instruction set, for benchmarks: reading, multiplying and adding.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

// More than the latency of a multiply-add (4 to 5 cycles) times two a cycle, fewer than there are registers.
constexpr std::size_t kProbeChains = 12;

float probe_read(const float* numbers, std::size_t n) {
  constexpr std::size_t kStreams = 8;
  Reg sum[kStreams];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kStreams; ++i) sum[i] = Reg::broadcast(0.0F);
  for (std::size_t at = 0; at < n; at += kStreams * Reg::kWidth) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kStreams; ++i) sum[i] = sum[i] + Reg::load(numbers + at + i * Reg::kWidth);
  }
  float total = 0.0F;
  for (std::size_t i = 0; i < kStreams; ++i) total += sum[i].sum();
  return total;
}

std::size_t probe_multiply_adds(std::size_t rounds, float seed, float* result) {
  const Reg factor = Reg::broadcast(seed);
  Reg sum[kProbeChains];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kProbeChains; ++i) sum[i] = Reg::broadcast(seed + static_cast<float>(i));
  for (std::size_t round = 0; round < rounds; ++round) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kProbeChains; ++i) sum[i] = Reg::fma(sum[i], factor, factor);
  }
  float total = 0.0F;
  for (std::size_t i = 0; i < kProbeChains; ++i) total += sum[i].sum();
  *result = total;
  return rounds * kProbeChains * Reg::kWidth;
}

}  // namespace
}  // namespace kserve::kernels
