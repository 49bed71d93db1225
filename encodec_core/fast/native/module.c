/* The shared object as Python finds it: its functions are called through ctypes, without the interpreter's lock. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* Whether this machine can run the kernels; a shared object is loaded anywhere. */
__attribute__((visibility("default"))) int encodec_is_supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_kernels", "Kernels of the encoder on a CPU.", -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__kernels(void) { return PyModule_Create(&definition); }
