// The Python module empool._C: importing it registers the operators; cpu_capability() tells which kernels they use, and
// `interface` which arguments they take: it and empool._extension's grow together where these change.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <exception>

namespace empool {
const char* cpu_capability();
}

namespace {

PyObject* cpu_capability(PyObject*, PyObject*) {
    try {
        return PyUnicode_FromString(empool::cpu_capability());
    } catch (const std::exception& error) {
        PyErr_SetString(PyExc_ValueError, error.what());
        return nullptr;
    }
}

PyMethodDef methods[] = {
    {"cpu_capability", cpu_capability, METH_NOARGS, "Return the instruction set in use: default, avx2 or avx512."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "_C", "The kernels for the CPU.", -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() {
    PyObject* made = PyModule_Create(&module);
    if (made) PyModule_AddIntConstant(made, "interface", 2);
    return made;
}
