// The kernels with AVX-512 F, BW, DQ, VL and VNNI. This object must share no definition with any other
// (docs/design.md, "Engine").
#define KSERVE_VEC "kernels/vec_avx512.h"
#define KSERVE_CODES "kernels/vec_codes_avx512.h"

#include "kernels/attention-inl.h"
#include "kernels/dense_int8-inl.h"
#include "kernels/dynconv-inl.h"
#include "kernels/int8-inl.h"
#include "kernels/kmatrix-inl.h"
#include "kernels/norm-inl.h"
#include "kernels/probe-inl.h"
#include "kernels/rank-inl.h"
#include "kernels/softmax-inl.h"
#include "kernels/tables.h"

namespace kserve::kernels {

static const ProbeTable kProbe = {probe_read, probe_multiply_adds};

const KernelTable kAvx512vnniTable = {"avx512vnni", kmatrix,   dense, layer_norm,  glu,         softmax,
                                      dynconv,      attention, embed, token_logit, rank_tokens, &kProbe};

}  // namespace kserve::kernels
