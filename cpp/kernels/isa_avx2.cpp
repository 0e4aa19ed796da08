// The kernels with AVX2, FMA and F16C. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx2.h"
#define KSERVE_TILES "kernels/vec_tiles_none.h"
#define KSERVE_ISA_TABLE kAvx2Table
#define KSERVE_ISA_NAME "avx2"

#include "kernels/isa_table-inl.h"
