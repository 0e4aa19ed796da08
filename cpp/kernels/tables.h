// The tables that the isa_*.cpp files define. Only dispatch.cpp may pick one: some cannot run everywhere.
#pragma once

#include "kernels/table.h"

namespace kserve::kernels {

extern const KernelTable kScalarTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512vnniTable;
extern const KernelTable kAmxTable;
#endif

}  // namespace kserve::kernels
