// Training's kernels for AVX-512 F, BW, DQ and VL. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx512.h"
#define KSERVE_BITS "training/vec_bits_avx512.h"

#include "training/butterfly-inl.h"
#include "training/grow-inl.h"
#include "training/loss-inl.h"
#include "training/rows-inl.h"
#include "training/sentences-inl.h"
#include "training/tables-inl.h"

namespace kserve::training {

const TrainingTable kAvx512Training = training_table("avx512");

}  // namespace kserve::training
