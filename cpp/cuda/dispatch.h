// The C interface over any device: arguments to the types of a kernel, and errors in words.
#pragma once

#include "butterfly.h"

namespace kserve::cuda {

// Calls body(X{}, W{}) with the types that the sizes name.
template <class Body>
int with_types(const Sizes& sizes, Body body) {
  if (sizes.x_type == 0) return sizes.twiddle_type == 0 ? body(float{}, float{}) : body(float{}, Bf16{});
  return sizes.twiddle_type == 0 ? body(Bf16{}, float{}) : body(Bf16{}, Bf16{});
}

// Launcher has limits(Limits&), forward<X, W>(plan, arguments), backward<X, W>(plan, arguments) and
// sum<W>(arguments), each 0 or an error.
template <class Launcher>
int make_plan(Launcher& launcher, const Sizes& sizes, bool backward, Plan& plan) {
  Limits limits;
  if (const int error = launcher.limits(limits)) return error;
  if (const int error = check(sizes)) return error;
  plan = backward ? plan_backward(sizes, limits) : plan_forward(sizes, limits);
  return plan.fits() ? kFine : kTooLarge;
}

template <class Launcher>
int run_forward(Launcher& launcher, const Sizes& sizes, const kserve_butterfly_forward_arrays& arrays) {
  Plan plan;
  if (const int error = make_plan(launcher, sizes, false, plan)) return error;
  return with_types(sizes, [&](auto x_type, auto w_type) {
    using X = decltype(x_type);
    using W = decltype(w_type);
    auto a = forward_arguments<X, W>(sizes, plan);
    a.x = static_cast<const X*>(arrays.x);
    a.twiddle = static_cast<const W*>(arrays.twiddle);
    a.bias = static_cast<const W*>(arrays.bias);
    a.y = static_cast<X*>(arrays.y);
    return launcher.forward(plan, a);
  });
}

template <class Launcher>
int run_backward(Launcher& launcher, const Sizes& sizes, const kserve_butterfly_backward_arrays& arrays) {
  Plan plan;
  if (const int error = make_plan(launcher, sizes, true, plan)) return error;
  return with_types(sizes, [&](auto x_type, auto w_type) {
    using X = decltype(x_type);
    using W = decltype(w_type);
    auto a = backward_arguments<X, W>(sizes, plan);
    a.x = static_cast<const X*>(arrays.x);
    a.twiddle = static_cast<const W*>(arrays.twiddle);
    a.grad_y = static_cast<const X*>(arrays.grad_y);
    a.grad_x = static_cast<X*>(arrays.grad_x);
    a.partial = static_cast<float*>(arrays.workspace);
    a.scratch = a.partial + plan.partial_size;
    if (const int error = launcher.backward(plan, a)) return error;
    const int stacks = plan.grid_rows * plan.grid_cols;
    const int copies = plan.workers * plan.cut.slots();
    return launcher.sum(SumArguments<W>{plan.cut.twiddles(), stacks, copies, a.partial,
                                        static_cast<W*>(arrays.grad_twiddle)});
  });
}

template <class Launcher>
int run_workspace(Launcher& launcher, const Sizes& sizes, std::int64_t& bytes) {
  Plan plan;
  if (const int error = make_plan(launcher, sizes, true, plan)) return error;
  bytes = (plan.partial_size + plan.scratch_size) * 4;
  return kFine;
}

template <class Launcher>
int run_plan(Launcher& launcher, const Sizes& sizes, bool backward, std::int64_t* numbers) {
  Plan plan;
  if (const int error = make_plan(launcher, sizes, backward, plan)) return error;
  const int segments = backward ? (plan.cut.passes() + plan.segment - 1) / plan.segment : 0;
  const std::int64_t all[] = {plan.cut.tile_rows, plan.cut.cluster(), plan.threads(), plan.blocks_of_threads,
                              plan.shared_bytes,  plan.workers,       plan.segment,   segments};
  for (const std::int64_t number : all) *numbers++ = number;
  return kFine;
}

inline const char* own_error(int code) {
  switch (code) {
    case kFine:
      return "no error";
    case kBadSizes:
      return "sizes that are no K-matrix: rows, in, out, tile and blocks must be at least 1, n a power of "
             "two from max(2, tile) to 16384";
    case kTooLarge:
      return "one row does not fit this device's shared memory";
    case kBadType:
      return "a type other than float32 and bfloat16";
    default:
      return nullptr;
  }
}

}  // namespace kserve::cuda
