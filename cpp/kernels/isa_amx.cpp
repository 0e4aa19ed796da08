// The kernels with AVX-512 F, BW, DQ, VL and VNNI, and matrix units for bytes (AMX). This object must share
// no definition with any other (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx512.h"
#define KSERVE_TILES "kernels/vec_tiles_amx.h"
#define KSERVE_ISA_TABLE kAmxTable
#define KSERVE_ISA_NAME "amx"

#include "kernels/isa_table-inl.h"
