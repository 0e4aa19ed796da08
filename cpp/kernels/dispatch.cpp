#include "kernels/dispatch.h"

#include <stdexcept>
#include <string>

#include "kernels/tables.h"

namespace kserve::kernels {
namespace {

// __builtin_cpu_supports also asks whether the operating system saves the wide registers (XGETBV).
std::vector<const KernelTable*> detect() {
  std::vector<const KernelTable*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  // AVX-512 came before its 8-bit products (VNNI): a processor may have the one without the other.
  if (avx2 && avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(&kAvx512vnniTable);
  if (avx2 && avx512) found.push_back(&kAvx512Table);
  if (avx2) found.push_back(&kAvx2Table);
#endif
  found.push_back(&kScalarTable);
  return found;
}

}  // namespace

const std::vector<const KernelTable*>& available() {
  static const std::vector<const KernelTable*> tables = detect();
  return tables;
}

const KernelTable& choose(std::string_view forced) {
  if (forced.empty()) return *available().front();
  std::string names;
  for (const KernelTable* table : available()) {
    if (forced == table->name) return *table;
    names += names.empty() ? "" : ", ";
    names += table->name;
  }
  throw std::invalid_argument("instruction set '" + std::string(forced) +
                              "' is unknown or not supported by this processor; use one of: " + names);
}

}  // namespace kserve::kernels
