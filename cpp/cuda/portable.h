// What the kernels need of CUDA, so that an ordinary compiler can build them as well: emulator/ runs the
// same source on the host, thread by thread.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#define KSERVE_DEVICE __device__ __forceinline__
#define KSERVE_BOTH __host__ __device__ __forceinline__
#else
#define KSERVE_DEVICE inline
#define KSERVE_BOTH inline
#endif

// Loops over what lies in registers must be unrolled; those over rows must not, or registers run out.
#ifdef __CUDA_ARCH__
#define KSERVE_UNROLLED _Pragma("unroll")
#define KSERVE_ROLLED _Pragma("unroll 1")
#else
#define KSERVE_UNROLLED
#define KSERVE_ROLLED
#endif

namespace kserve::cuda {

// Upper half of a float: the storage of bfloat16, without CUDA's own class, which the host may not have.
struct Bf16 {
  std::uint16_t bits;
};

struct alignas(16) Quad {
  float x, y, z, w;
};

struct alignas(8) Bf16Quad {
  Bf16 x, y, z, w;
};

KSERVE_BOTH float widen(float value) { return value; }

KSERVE_BOTH float widen(Bf16 value) {
  const std::uint32_t bits = static_cast<std::uint32_t>(value.bits) << 16;
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
#endif
}

// A fused multiply-add is asked for by name: the host compiler makes none on its own, the device always does.
KSERVE_BOTH float fma(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

template <class Number>
KSERVE_BOTH Number narrow(float value);

template <>
KSERVE_BOTH float narrow<float>(float value) {
  return value;
}

// To the nearest, ties to even; NaN stays NaN.
template <>
KSERVE_BOTH Bf16 narrow<Bf16>(float value) {
#ifdef __CUDA_ARCH__
  return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#else
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>(0x7FFF)};
  return {static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16)};
#endif
}

// Four neighbours in one access; the address is a multiple of their size.
KSERVE_BOTH Quad load_quad(const float* from) { return *reinterpret_cast<const Quad*>(from); }

KSERVE_BOTH Quad load_quad(const Bf16* from) {
  const Bf16Quad quad = *reinterpret_cast<const Bf16Quad*>(from);
  return {widen(quad.x), widen(quad.y), widen(quad.z), widen(quad.w)};
}

// The same for what no thread writes while the kernel runs: the read-only path, free to be read early.
KSERVE_BOTH Quad load_constant_quad(const float* from) {
#ifdef __CUDA_ARCH__
  const float4 quad = __ldg(reinterpret_cast<const float4*>(from));
  return {quad.x, quad.y, quad.z, quad.w};
#else
  return load_quad(from);
#endif
}

KSERVE_BOTH Quad load_constant_quad(const Bf16* from) {
#ifdef __CUDA_ARCH__
  const uint2 two = __ldg(reinterpret_cast<const uint2*>(from));
  return {__uint_as_float(two.x << 16), __uint_as_float(two.x & 0xFFFF0000U), __uint_as_float(two.y << 16),
          __uint_as_float(two.y & 0xFFFF0000U)};
#else
  return load_quad(from);
#endif
}

KSERVE_BOTH void store_quad(float* to, const Quad& quad) { *reinterpret_cast<Quad*>(to) = quad; }

KSERVE_BOTH void store_quad(Bf16* to, const Quad& quad) {
  *reinterpret_cast<Bf16Quad*>(to) = {narrow<Bf16>(quad.x), narrow<Bf16>(quad.y), narrow<Bf16>(quad.z),
                                      narrow<Bf16>(quad.w)};
}

KSERVE_BOTH int smaller(int a, int b) { return a < b ? a : b; }
KSERVE_BOTH int larger(int a, int b) { return a > b ? a : b; }

}  // namespace kserve::cuda
