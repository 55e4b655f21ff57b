/* What `_piton` uses of CPython's stable ABI of 3.12 (PEP 384, PEP 697; https://docs.python.org/3/c-api/stable.html).
 *
 * Declared here, so that building it takes no Python headers of the target: the stable ABI is what never changes
 * between versions. `PyObject` is never looked into. */

#ifndef STABLE_ABI_H
#define STABLE_ABI_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef ssize_t Py_ssize_t;
typedef struct object PyObject;

/* Part of the stable ABI since 3.11 (https://docs.python.org/3/c-api/buffer.html). */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len;
    Py_ssize_t itemsize;
    int readonly;
    int ndim;
    char *format;
    Py_ssize_t *shape;
    Py_ssize_t *strides;
    Py_ssize_t *suboffsets;
    void *internal;
} Py_buffer;
#define PyBUF_SIMPLE 0
#define PyBUF_WRITABLE 0x0001

typedef PyObject *(*PyCFunction)(PyObject *, PyObject *const *, Py_ssize_t);
typedef struct {
    const char *name;
    PyCFunction function;
    int flags;
    const char *doc;
} PyMethodDef;
#define METH_FASTCALL 0x0080

/* The head of a static object: 16 bytes, of which the first 4 are the reference count. */
typedef struct {
    int64_t references;
    void *type;
    PyObject *(*init)(void);
    Py_ssize_t index;
    PyObject *copy;
    const char *name;
    const char *doc;
    Py_ssize_t size;
    PyMethodDef *methods;
    void *slots;
    void *traverse;
    void *clear;
    void *free;
} PyModuleDef;

PyObject *PyModuleDef_Init(PyModuleDef *);
int PyObject_GetBuffer(PyObject *, Py_buffer *, int);
void PyBuffer_Release(Py_buffer *);
Py_ssize_t PyLong_AsSsize_t(PyObject *);
unsigned long long PyLong_AsUnsignedLongLong(PyObject *);
PyObject *PyLong_FromUnsignedLongLong(unsigned long long);
PyObject *PyErr_Occurred(void);
PyObject *PyErr_Format(PyObject *, const char *, ...);
/* None, which is never freed. */
extern char _Py_NoneStruct[];
extern PyObject *PyExc_TypeError, *PyExc_ValueError, *PyExc_IndexError, *PyExc_OverflowError;

#endif
