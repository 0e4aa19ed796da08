// The kernels with AVX-512 F, BW, DQ and VL. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx512.h"
#define KSERVE_TILES "kernels/vec_tiles_none.h"
#define KSERVE_ISA_TABLE kAvx512Table
#define KSERVE_ISA_NAME "avx512"

#include "kernels/isa_table-inl.h"
