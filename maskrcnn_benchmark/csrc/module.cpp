// A Python module that uses the limited API. `import maskrcnn_benchmark._C` loads this library, which registers ops.
#include <Python.h>

#include "cpu/per_isa.h"

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT,
      "_C",
      "Registers torch.ops.maskrcnn_benchmark.",
      -1,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
      nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr) {
    const char* const names[] = {"portable", "avx2", "avx512"};  // in the order of enum Isa
    PyModule_AddStringConstant(module, "CPU_INSTRUCTIONS", names[static_cast<int>(maskrcnn_benchmark::best_isa())]);
  }
  return module;
}
