#include "kernels/dispatch.h"

#include <cstring>

#include "training/table.h"

namespace kserve::training {

const TrainingTable& choose(const char* isa) {
  const char* const name = kernels::choose(isa).name;
#if defined(__x86_64__)
  if (std::strncmp(name, "avx512", 6) == 0) return kAvx512Training;
  if (std::strcmp(name, "avx2") == 0) return kAvx2Training;
#endif
  return kScalarTraining;
}

}  // namespace kserve::training
