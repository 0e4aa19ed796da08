// No matrix units: dot-inl.h does everything with vectors. The same member names in vec_tiles_amx.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {
namespace {

struct TileCall {
  const std::int8_t* panels;
  const std::int32_t* offset;
  const std::int8_t* codes;
  std::size_t groups;
};

struct Tiles {
  static constexpr bool worth(std::size_t /*groups*/, std::size_t /*panels*/, std::size_t /*rows*/) {
    return false;
  }
  static void begin() {}
  static void end() {}
  static void multiply(const TileCall& /*call*/, std::size_t /*rows*/, std::int32_t* /*totals*/) {}
};

}  // namespace
}  // namespace kserve::kernels
