#include "kernels/dispatch.h"

#if defined(KSERVE_HAS_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <stdexcept>
#include <string>

#include "kernels/tables.h"

namespace kserve::kernels {
namespace {

#if defined(KSERVE_HAS_AMX)
// Whether the processor has tiles of bytes and the system lets this process use them: their state is large,
// so Linux wants to be asked (arch_prctl(2), ARCH_REQ_XCOMP_PERM).
bool may_use_tiles() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kTile = 1U << 24, kInt8 = 1U << 25;
  if ((edx & kTile) == 0 || (edx & kInt8) == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

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
  const bool vnni = avx2 && avx512 && __builtin_cpu_supports("avx512vnni");
#if defined(KSERVE_HAS_AMX)
  if (vnni && may_use_tiles()) found.push_back(&kAmxTable);
#endif
  if (vnni) found.push_back(&kAvx512vnniTable);
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
