// An empty Python module on the limited API: `import maskrcnn_benchmark._C` loads this library, and that registers its ops.
#include <Python.h>

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT, "_C", "Registers torch.ops.maskrcnn_benchmark.", -1, nullptr, nullptr, nullptr, nullptr,
      nullptr};
  return PyModule_Create(&definition);
}
