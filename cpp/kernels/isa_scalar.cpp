// The kernels for any processor. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_scalar.h"
#define KSERVE_TILES "kernels/vec_tiles_none.h"
#define KSERVE_ISA_TABLE kScalarTable
#define KSERVE_ISA_NAME "scalar"

#include "kernels/isa_table-inl.h"
