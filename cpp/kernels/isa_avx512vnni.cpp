// The kernels with AVX-512 F, BW, DQ, VL and VNNI. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx512.h"
#define KSERVE_TILES "kernels/vec_tiles_none.h"
#define KSERVE_ISA_TABLE kAvx512vnniTable
#define KSERVE_ISA_NAME "avx512vnni"

#include "kernels/isa_table-inl.h"
