// How to decode and what comes of it, for Python.
#pragma once

#include <pybind11/pybind11.h>

namespace kserve {

void bind_decoding(pybind11::module_& module);

}  // namespace kserve
