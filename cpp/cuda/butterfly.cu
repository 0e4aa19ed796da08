// The kernels for a GPU, and the C interface over the CUDA run-time. Compiled by nvcc on demand
// (kserve/kmatrix/nvcc.py); needs compute capability 8.0.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "dispatch.h"

namespace kserve::cuda {
namespace {

extern __shared__ float shared_memory[];

struct DeviceBlock {
  __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
  __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
  __device__ __forceinline__ std::int64_t index() const { return blockIdx.x; }
  // Blocks of a cluster are neighbours in a grid of one dimension.
  __device__ __forceinline__ int rank(const Cut& cut) const {
    return static_cast<int>(blockIdx.x) & (cut.cluster() - 1);
  }
  __device__ __forceinline__ float get(int i) const { return shared_memory[i]; }
  __device__ __forceinline__ void set(int i, float value) { shared_memory[i] = value; }
  __device__ __forceinline__ void barrier() { __syncthreads(); }
#if __CUDA_ARCH__ >= 900
  __device__ __forceinline__ float get_from(int rank, int i) const { return memory_of(rank)[i]; }
  __device__ __forceinline__ void set_to(int rank, int i, float value) { memory_of(rank)[i] = value; }
  __device__ __forceinline__ void cluster_barrier() { cooperative_groups::this_cluster().sync(); }

 private:
  __device__ __forceinline__ static float* memory_of(int rank) {
    return cooperative_groups::this_cluster().map_shared_rank(shared_memory, static_cast<unsigned>(rank));
  }
#else
  // Older devices have no clusters; plans for them have none either.
  __device__ __forceinline__ float get_from(int, int i) const { return get(i); }
  __device__ __forceinline__ void set_to(int, int i, float value) { set(i, value); }
  __device__ __forceinline__ void cluster_barrier() { barrier(); }
#endif
};

// Registers: two blocks a multiprocessor leave 128 a thread, which the forward kernel needs to have a turn's
// twiddles and the next one's at hand; the backward kernel holds twiddles, their gradients and three stages
// of a group.
template <class X, class W>
__global__ void __launch_bounds__(kMaxThreads, 2) forward_kernel(const ForwardArguments<X, W> arguments) {
  DeviceBlock block;
  forward_block(block, arguments);
}

template <class X, class W>
__global__ void __launch_bounds__(kMaxThreads, 1) backward_kernel(const BackwardArguments<X, W> arguments) {
  DeviceBlock block;
  backward_block(block, arguments);
}

template <class W>
__global__ void __launch_bounds__(kMaxThreads) sum_kernel(const SumArguments<W> arguments) {
  DeviceBlock block;
  sum_block(block, arguments);
}

int failed(cudaError_t error) { return error == cudaSuccess ? kFine : kCudaBase + static_cast<int>(error); }

class Launcher {
 public:
  Launcher(int device, void* stream) : device_(device), stream_(static_cast<cudaStream_t>(stream)) {}

  int limits(Limits& limits) const {
    // This library's copy of the run-time does not know which device its caller's copy has chosen.
    if (const int error = failed(cudaSetDevice(device_))) return error;
    if (const int error = attribute(cudaDevAttrMultiProcessorCount, limits.processors)) return error;
    if (const int error = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, limits.shared_bytes)) {
      return error;
    }
    if (const int error = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, limits.shared_bytes_total)) {
      return error;
    }
    int clusters = 0;
    if (const int error = attribute(cudaDevAttrClusterLaunch, clusters)) return error;
    limits.log_cluster = clusters ? kLevels : 0;
    return kFine;
  }

  template <class X, class W>
  int forward(const Plan& plan, const ForwardArguments<X, W>& arguments) const {
    return launch(forward_kernel<X, W>, plan, arguments);
  }

  template <class X, class W>
  int backward(const Plan& plan, const BackwardArguments<X, W>& arguments) const {
    return launch(backward_kernel<X, W>, plan, arguments);
  }

  template <class W>
  int sum(const SumArguments<W>& arguments) const {
    const std::int64_t quads = arguments.stacks * arguments.twiddles / 4;
    const unsigned blocks = static_cast<unsigned>((quads + kMaxThreads - 1) / kMaxThreads);
    sum_kernel<W><<<blocks, kMaxThreads, 0, stream_>>>(arguments);
    return failed(cudaGetLastError());
  }

 private:
  template <class Arguments>
  int launch(void (*kernel)(Arguments), const Plan& plan, const Arguments& arguments) const {
    if (const int error = failed(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan.shared_bytes))) {
      return error;
    }
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = static_cast<unsigned>(plan.cut.cluster());
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(plan.blocks_of_threads));
    config.blockDim = dim3(static_cast<unsigned>(plan.threads()));
    config.dynamicSmemBytes = static_cast<std::size_t>(plan.shared_bytes);
    config.stream = stream_;
    config.attrs = &cluster;
    config.numAttrs = plan.cut.log_cluster > 0 ? 1 : 0;
    return failed(cudaLaunchKernelEx(&config, kernel, arguments));
  }

  int attribute(cudaDeviceAttr name, int& value) const {
    return failed(cudaDeviceGetAttribute(&value, name, device_));
  }

  int device_;
  cudaStream_t stream_;
};

}  // namespace
}  // namespace kserve::cuda

using kserve::cuda::Launcher;
using kserve::cuda::Sizes;

int kserve_butterfly_forward(const Sizes* sizes, const kserve_butterfly_forward_arrays* arrays,
                             void* stream) {
  Launcher launcher(sizes->device, stream);
  return kserve::cuda::run_forward(launcher, *sizes, *arrays);
}

int kserve_butterfly_workspace(const Sizes* sizes, std::int64_t* bytes) {
  Launcher launcher(sizes->device, nullptr);
  return kserve::cuda::run_workspace(launcher, *sizes, *bytes);
}

int kserve_butterfly_backward(const Sizes* sizes, const kserve_butterfly_backward_arrays* arrays,
                              void* stream) {
  Launcher launcher(sizes->device, stream);
  return kserve::cuda::run_backward(launcher, *sizes, *arrays);
}

int kserve_butterfly_plan(const Sizes* sizes, int backward, std::int64_t* eight_numbers) {
  Launcher launcher(sizes->device, nullptr);
  return kserve::cuda::run_plan(launcher, *sizes, backward != 0, eight_numbers);
}

const char* kserve_butterfly_error(int code) {
  if (const char* text = kserve::cuda::own_error(code)) return text;
  return cudaGetErrorString(static_cast<cudaError_t>(code - kserve::cuda::kCudaBase));
}
