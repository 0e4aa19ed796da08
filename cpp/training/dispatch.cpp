#include "kernels/dispatch.h"

#include <string_view>

#include "training/table.h"

namespace kserve::training {

const TrainingTable& choose(const char* isa) {
  const std::string_view name = kernels::choose(isa).name;
#if defined(__x86_64__)
  if (name == "avx2") return kAvx2Training;
  // Those above avx512 only add instructions for 8-bit numbers, of which training has none.
  if (name != "scalar") return kAvx512Training;
#endif
  return kScalarTraining;
}

}  // namespace kserve::training
