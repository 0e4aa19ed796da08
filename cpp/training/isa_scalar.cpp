// Training's kernels without vector instructions, for any processor. This object must share no definition
// with any other (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_scalar.h"
#define KSERVE_BITS "training/vec_bits_scalar.h"

#include "training/butterfly-inl.h"
#include "training/grow-inl.h"
#include "training/loss-inl.h"
#include "training/rows-inl.h"
#include "training/sentences-inl.h"
#include "training/tables-inl.h"

namespace kserve::training {

const TrainingTable kScalarTraining = training_table("scalar");

}  // namespace kserve::training
