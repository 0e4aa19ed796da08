// The parts of the extension module kserve._engine, each in its own bind_*.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace kserve {

void bind_kernels(pybind11::module_& module);
void bind_engine(pybind11::module_& module);
void bind_batcher(pybind11::module_& module);  // after bind_engine, whose classes it takes
void bind_rank(pybind11::module_& module);     // after bind_kernels, whose classes it takes
void bind_butterfly(pybind11::module_& module);
void bind_training(pybind11::module_& module);
void bind_timing(pybind11::module_& module);  // after bind_kernels, whose classes it takes

}  // namespace kserve
