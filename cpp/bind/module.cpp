#include "bind/module.h"

PYBIND11_MODULE(_engine, module) {
  module.doc() = "The translation engine and, for tests and benchmarks, its kernels.";
  kserve::bind_kernels(module);
  kserve::bind_rank(module);
  kserve::bind_timing(module);
  kserve::bind_butterfly(module);
  kserve::bind_training(module);
  kserve::bind_engine(module);
  kserve::bind_batcher(module);
}
