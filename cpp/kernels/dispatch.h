// The choice of instruction set: made once, when an engine is built.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/table.h"

namespace kserve::kernels {

// The tables that this processor and its operating system can run, best first; the last one is "scalar".
const std::vector<const KernelTable*>& available();

// The best table, or the one named `forced` if that is not empty. Throws std::invalid_argument, with the
// names that are valid here, for any other name.
const KernelTable& choose(std::string_view forced);

}  // namespace kserve::kernels
