// Exact sums of products of bytes: rows of codes times panels of 16 outputs. Dense int8 layers and the output
// layer are made of them. Sums are whole numbers, so they are the same on every instruction set, in any
// order.
#pragma once

#include KSERVE_TILES  // set by the isa_*.cpp that is being compiled

#include "kernels/lanes-inl.h"

namespace kserve::kernels {
namespace {

constexpr std::size_t kDotPanels = 4;                     // panels at a time
constexpr std::size_t kDotOutputs = kDotPanels * kLanes;  // a row of totals
constexpr std::size_t kDotRows = 6;                       // share a loaded panel, as many as registers hold

struct DotCall {
  const std::int8_t* panels;   // (panels, groups, 16, 4)
  const std::int32_t* offset;  // (panels, 16), what Dot::kShift makes the sums too large by, negative
  const std::int8_t* codes;    // (rows, groups * 4), Dot::kShift added to each
  std::size_t groups;          // of kBytesPerLane inputs

  const std::int8_t* panel(std::size_t p) const { return panels + p * groups * kLanes * kBytesPerLane; }
  const std::int8_t* row(std::size_t r) const { return codes + r * groups * kBytesPerLane; }
};

// A logical vector of sums.
struct DotVec {
  static constexpr std::size_t kParts = kLanes / Dot::kWidth;
  Dot part[kParts];
};
// Whether the sums of kDotRows rows and kDotPanels panels all have a register.
constexpr bool kAllPanelsFit = DotVec::kParts == 1;

// totals (kRows, kDotOutputs) of rows from `row` on, the first kPanels panels of it from `panel` on.
template <std::size_t kPanels, std::size_t kRows>
KSERVE_INLINE void dot_tile(const DotCall& call, std::size_t panel, std::size_t row, std::int32_t* totals) {
  DotVec sum[kRows][kPanels];
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kPanels * DotVec::kParts; ++i) {
    const std::size_t p = i / DotVec::kParts, part = i % DotVec::kParts;
    const Dot start =
        Dot::kShift == 0 ? Dot::fill(0) : Dot::load_sums(call.offset + panel * kLanes + i * Dot::kWidth);
    KSERVE_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) sum[r][p].part[part] = start;
  }
  const std::int8_t* const panels = call.panel(panel);
  const std::int8_t* const codes = call.row(row);
  const std::size_t panel_bytes = call.groups * kLanes * kBytesPerLane,
                    row_bytes = call.groups * kBytesPerLane;
  for (std::size_t g = 0; g < call.groups; ++g) {
    KSERVE_UNROLL
    for (std::size_t p = 0; p < kPanels; ++p) {
      KSERVE_UNROLL
      for (std::size_t i = 0; i < DotVec::kParts; ++i) {
        const Dot w = Dot::load(panels + p * panel_bytes + (g * kLanes + i * Dot::kWidth) * kBytesPerLane);
        KSERVE_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          Dot& total = sum[r][p].part[i];
          total = Dot::add(total, Dot::broadcast(codes + r * row_bytes + g * kBytesPerLane), w);
        }
      }
    }
  }
  KSERVE_UNROLL
  for (std::size_t i = 0; i < kRows * kPanels * DotVec::kParts; ++i) {
    const std::size_t r = i / kPanels / DotVec::kParts, p = i / DotVec::kParts % kPanels,
                      part = i % DotVec::kParts;
    sum[r][p].part[part].store(totals + r * kDotOutputs + p * kLanes + part * Dot::kWidth);
  }
}

// kRows rows at a time, and the rest, which is fewer, at once.
template <std::size_t kPanels, std::size_t kRows = kDotRows>
void dot_rows(const DotCall& call, std::size_t panel, std::size_t rows, std::int32_t* totals,
              std::size_t row = 0) {
  for (; row + kRows <= rows; row += kRows) {
    dot_tile<kPanels, kRows>(call, panel, row, totals + row * kDotOutputs);
  }
  if constexpr (kRows > 1) {
    if (row < rows) dot_rows<kPanels, kRows - 1>(call, panel, rows, totals, row);
  }
}

// totals (rows, kDotOutputs): sums of `panels` panels, at most kDotPanels, from `panel` on. On processors
// with matrix units the rows are taken by 16: codes beyond the last row must exist, and totals are written
// there.
void dot_panels(const DotCall& call, std::size_t panel, std::size_t panels, std::size_t rows,
                std::int32_t* totals) {
  if (Tiles::worth(call.groups, panels, rows)) {
    Tiles::multiply({call.panel(panel), call.offset + panel * kLanes, call.codes, call.groups}, rows, totals);
    return;
  }
  if constexpr (kAllPanelsFit) {
    if (panels == kDotPanels) {
      dot_rows<kDotPanels>(call, panel, rows, totals);
      return;
    }
  }
  // One row streams the panels, and sums side by side hide the latency; several rows need the registers.
  if (panels == kDotPanels && rows == 1) {
    dot_tile<kDotPanels, 1>(call, panel, 0, totals);
    return;
  }
  for (std::size_t p = 0; p < panels; ++p) dot_rows<1>(call, panel + p, rows, totals + p * kLanes);
}

// The bits of the largest absolute value: as whole numbers they order like the floats, and NaN comes last.
std::uint32_t largest_bits(const float* x, std::size_t n) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7FFFFFFFU;
    largest = bits > largest ? bits : largest;
  }
  return largest;
}

constexpr float kToNearest = 0x1.8p23F;  // added and taken away, it leaves the nearest integer

// How a row becomes codes: code = round(x * inverse), x ~ code * step. Both 0 for a row of nearly 0, NaN
// where a number is not finite.
struct CodeScale {
  float step, inverse;
};

// codes (padded) with Dot::kShift added, x (n) followed by zeros; step is the largest |x| / 127.
CodeScale to_codes(const float* x, std::size_t n, std::size_t padded, std::int8_t* codes) {
  const std::uint32_t bits = largest_bits(x, n);
  float largest;
  __builtin_memcpy(&largest, &bits, sizeof largest);
  constexpr float kTiny = 1e-30F;  // below, 127 / largest would not be a number
  const bool finite = bits < 0x7F800000U;
  const float inverse = finite && largest > kTiny ? 127.0F / largest : 0.0F;
  for (std::size_t i = 0; i < n; ++i) {
    const float value = finite ? x[i] * inverse : 0.0F;
    codes[i] = static_cast<std::int8_t>(static_cast<int>(value + kToNearest - kToNearest) + Dot::kShift);
  }
  for (std::size_t i = n; i < padded; ++i) codes[i] = static_cast<std::int8_t>(Dot::kShift);
  if (!finite) return {__builtin_nanf(""), __builtin_nanf("")};
  return {largest > kTiny ? largest / 127.0F : 0.0F, inverse};
}

}  // namespace
}  // namespace kserve::kernels
