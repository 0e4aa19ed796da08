// Training's kernels for AVX2, FMA and F16C. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx2.h"
#define KSERVE_BITS "training/vec_bits_avx2.h"

#include "training/butterfly-inl.h"
#include "training/grow-inl.h"
#include "training/loss-inl.h"
#include "training/rows-inl.h"
#include "training/sentences-inl.h"
#include "training/tables-inl.h"

namespace kserve::training {

const TrainingTable kAvx2Training = training_table("avx2");

}  // namespace kserve::training
