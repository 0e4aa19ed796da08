// kserve._engine.training: the kernels of training on a CPU. Arrays of uint16 hold bfloat16.
#include "bind/module.h"
#include "bind/training_arrays.h"

namespace kserve {

void bind_training(py::module_& module) {
  py::module_ part =
      module.def_submodule("training", "The kernels of training; arrays of uint16 hold bfloat16.");
  py::class_<TrainingKernels> kernels(part, "Kernels", "An instruction set and a number of threads.");
  kernels.def(py::init<const std::string&, std::size_t>(), py::arg("isa") = "", py::arg("threads") = 1);
  kernels.def_property_readonly(
      "isa", [](const TrainingKernels& self) { return self.team.table.isa; },
      "The instruction set that the kernels were compiled for.");
  bind_training_rows(kernels);
  bind_training_sentences(kernels);
  bind_training_growth(kernels);
}

}  // namespace kserve
