// Matrix units (AMX): 16 rows of 64 codes times a panel's 64 inputs in one instruction. The bytes of a panel
// lie just as the unit wants them. The same member names in vec_tiles_none.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace kserve::kernels {
namespace {

struct TileCall {
  const std::int8_t* panels;   // the first one's bytes
  const std::int32_t* offset;  // what its sums begin with
  const std::int8_t* codes;
  std::size_t groups;
};

struct Tiles {
  static constexpr std::size_t kRows = 16, kBytes = 64;  // of a tile
  static constexpr std::size_t kGroups = 16;             // of four inputs in a tile
  static constexpr std::size_t kPanels = 4;
  static constexpr std::size_t kTotals = kPanels * 16;  // in a row of totals
  // As many rows as vectors take at once are as fast there, and faster after work of others: the unit has to
  // wake up.
  static constexpr std::size_t kFewestRows = 7;

  static bool worth(std::size_t groups, std::size_t panels, std::size_t rows) {
    return rows >= kFewestRows && panels == kPanels && groups % kGroups == 0;
  }

  // Around all calls of multiply() on a thread: sets the sizes of the tiles, and gives them back.
  static void begin() {
    struct alignas(64) Config {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    };
    const Config config;
    _tile_loadconfig(&config);
  }
  static void end() { _tile_release(); }

  // totals (rows rounded up to 16, kTotals) of kPanels panels; codes (the same rows, groups * 4).
  static void multiply(const TileCall& call, std::size_t rows, std::int32_t* totals) {
    const std::size_t stride = call.groups * 4, panel = call.groups * kBytes;
    for (std::size_t row = 0; row < rows; row += kRows) {
      const std::int8_t* const a = call.codes + row * stride;
      _tile_loadd(0, call.offset, 0);  // the same for every row
      _tile_loadd(1, call.offset + 16, 0);
      _tile_loadd(2, call.offset + 32, 0);
      _tile_loadd(3, call.offset + 48, 0);
      for (std::size_t g = 0; g < call.groups; g += kGroups) {
        const std::int8_t* const b = call.panels + g * kBytes;
        _tile_loadd(4, a + g * 4, stride);
        _tile_loadd(5, b, kBytes);
        _tile_dpbusd(0, 4, 5);
        _tile_loadd(6, b + panel, kBytes);
        _tile_dpbusd(1, 4, 6);
        _tile_loadd(7, b + 2 * panel, kBytes);
        _tile_dpbusd(2, 4, 7);
        _tile_loadd(5, b + 3 * panel, kBytes);
        _tile_dpbusd(3, 4, 5);
      }
      std::int32_t* const to = totals + row * kTotals;
      _tile_stored(0, to, kTotals * 4);
      _tile_stored(1, to + 16, kTotals * 4);
      _tile_stored(2, to + 32, kTotals * 4);
      _tile_stored(3, to + 48, kTotals * 4);
    }
  }
};

}  // namespace
}  // namespace kserve::kernels
