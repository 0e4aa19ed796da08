// What the machine can do at best with one instruction set, for benchmarks: reading, and the arithmetic of a
// K-matrix.
#pragma once

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

template <std::size_t kPlaces>
float read_places(const float* numbers, std::size_t n) {
  constexpr std::size_t kStreams = 8, kEach = kStreams / kPlaces;
  const std::size_t part = n / kPlaces;
  Reg sum[kStreams];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kStreams; ++i) sum[i] = Reg::broadcast(0.0F);
  for (std::size_t at = 0; at < part; at += kEach * Reg::kWidth) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kStreams; ++i) {
      sum[i] = sum[i] + Reg::load(numbers + i / kEach * part + at + i % kEach * Reg::kWidth);
    }
  }
  float total = 0.0F;
  for (std::size_t i = 0; i < kStreams; ++i) total += sum[i].sum();
  return total;
}

float probe_read(const float* numbers, std::size_t n, std::size_t places) {
  if (places == 1) return read_places<1>(numbers, n);
  return places == 2 ? read_places<2>(numbers, n) : read_places<4>(numbers, n);
}

// Chains of multiply-adds side by side: enough to hide their latency, as few as registers hold.
constexpr std::size_t kProbeChains = Vec::kRegs == 1 ? 12 : 6;

template <WordWork kWork>
float use_words(std::size_t rounds, const std::uint32_t* words) {
  Vec x[kProbeChains];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kProbeChains; ++i) x[i] = Vec::broadcast(static_cast<float>(i));
  std::size_t at = 0;
  for (std::size_t round = 0; round < rounds; ++round) {
    KSERVE_UNROLL
    for (std::size_t i = 0; i < kProbeChains; ++i) {
      const std::uint32_t* const p = words + at + i * kLanes;
      const Vec high = Vec::load_words(p),
                low = kWork == WordWork::kWidening ? Vec::load_low_halves(p) : high;
      const auto partner = [](Vec v) { return kWork == WordWork::kExchanging ? Vec::exchanged<4>(v) : v; };
      x[i] = Vec::fma(low, partner(x[i]), x[i]);
      x[i] = Vec::fma(high, partner(x[i]), x[i]);
    }
    at = (at + kProbeChains * kLanes) % (kProbeWords / 2);
  }
  Vec total = Vec::zero();
  for (std::size_t i = 0; i < kProbeChains; ++i) total = total + x[i];
  return total.sum();
}
static_assert(kProbeChains * kLanes <= kProbeWords / 2);

std::size_t probe_use_words(std::size_t rounds, WordWork work, const std::uint32_t* words, float* result) {
  switch (work) {
    case WordWork::kNothing:
      *result = use_words<WordWork::kNothing>(rounds, words);
      break;
    case WordWork::kWidening:
      *result = use_words<WordWork::kWidening>(rounds, words);
      break;
    case WordWork::kExchanging:
      *result = use_words<WordWork::kExchanging>(rounds, words);
      break;
  }
  return rounds * kProbeChains;
}

}  // namespace
}  // namespace kserve::kernels
