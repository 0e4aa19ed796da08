// The table of one instruction set, named by the isa_*.cpp that includes this.
#pragma once

#include "kernels/attention-inl.h"
#include "kernels/dense_int8-inl.h"
#include "kernels/dynconv-inl.h"
#include "kernels/kmatrix-inl.h"
#include "kernels/norm-inl.h"
#include "kernels/probe-inl.h"
#include "kernels/rank-inl.h"
#include "kernels/softmax-inl.h"
#include "kernels/tables.h"

namespace kserve::kernels {

static const ProbeTable kProbe = {probe_read, probe_use_words};

const KernelTable KSERVE_ISA_TABLE = {
    KSERVE_ISA_NAME, kmatrix,   kmatrix_passes, dense, layer_norm,  glu,         softmax, dynconv,
    dynconv_half,    attention, narrow,         embed, token_logit, rank_tokens, &kProbe};

}  // namespace kserve::kernels
