// C interface of the CUDA butterfly: K-matrix multiply for training, forward and backward. The emulator has
// the same one, on host memory. A result that is not 0 is an error; kserve_butterfly_error tells it in words.
#pragma once

#include <cstdint>

#include "plan.h"

extern "C" {

// Matrices are row-major without gaps and start at multiples of 16 bytes: x (rows, in), y (rows, out),
// twiddle (grid_rows * grid_cols, blocks, log_n, n / 2, 2, 2) with grid_rows = ceil(out / tile), grid_cols =
// ceil(in / tile); bias (out) may be null. x and y have one type, twiddle and bias another or the same.
// `stream` is a cudaStream_t of the sizes' device, which becomes the current one; the call returns before the
// work is done.
struct kserve_butterfly_forward_arrays {
  const void *x, *twiddle, *bias;
  void* y;
};

int kserve_butterfly_forward(const kserve::cuda::Sizes* sizes, const kserve_butterfly_forward_arrays* arrays,
                             void* stream);

// Bytes of workspace that kserve_butterfly_backward needs.
int kserve_butterfly_workspace(const kserve::cuda::Sizes* sizes, std::int64_t* bytes);

struct kserve_butterfly_backward_arrays {
  const void *x, *twiddle, *grad_y;
  void *grad_x, *grad_twiddle;  // shapes and types of x and twiddle; both are overwritten
  void* workspace;
};

// For equal sizes on one kind of device the same sums are made in the same order every time.
int kserve_butterfly_backward(const kserve::cuda::Sizes* sizes,
                              const kserve_butterfly_backward_arrays* arrays, void* stream);

// The launch of sizes in numbers, for logs and tests: rows of a tile, blocks of a cluster, threads of a
// block, blocks, bytes of shared memory, and for backward (else 0) workers, inputs held, segments.
int kserve_butterfly_plan(const kserve::cuda::Sizes* sizes, int backward, std::int64_t* eight_numbers);

const char* kserve_butterfly_error(int code);
}
