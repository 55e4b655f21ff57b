/* `_piton`: what Python cannot say itself: one access to memory of exactly the width asked for.
 *
 * load(buffer, offset, width) and store(buffer, offset, width, value), `width` in bits. Outside the buffer, misaligned,
 * of another width, or with a value that does not fit: an exception, and nothing is accessed. A load is ordered before
 * all accesses after it, a store after all before it, memory that a device shares included. */

#include "stable_abi.h"

#if defined(__aarch64__)
/* Arm ARM DDI 0487, B2.3: outer shareable, which devices are part of. One instruction without writeback for each
 * access, so that a hypervisor can carry it out. */
#define BEFORE_STORE() __asm__ volatile("dmb osh" ::: "memory")
#define AFTER_LOAD() __asm__ volatile("dmb oshld" ::: "memory")
#define LOAD(type, register, instruction)                                                                             \
    static uint64_t load_##type(const void *at) {                                                                      \
        type value;                                                                                                    \
        __asm__ volatile(instruction " %" register "0, [%1]" : "=r"(value) : "r"(at) : "memory");                      \
        return value;                                                                                                  \
    }
#define STORE(type, register, instruction)                                                                            \
    static void store_##type(void *at, uint64_t value) {                                                               \
        __asm__ volatile(instruction " %" register "0, [%1]" ::"r"((type)value), "r"(at) : "memory");                  \
    }
LOAD(uint8_t, "w", "ldrb")
LOAD(uint16_t, "w", "ldrh")
LOAD(uint32_t, "w", "ldr")
LOAD(uint64_t, "x", "ldr")
STORE(uint8_t, "w", "strb")
STORE(uint16_t, "w", "strh")
STORE(uint32_t, "w", "str")
STORE(uint64_t, "x", "str")
#elif defined(__x86_64__)
/* Intel SDM 3A, 9.2: loads and stores to uncached memory are in order; those to memory may pass. */
#define BEFORE_STORE() __asm__ volatile("mfence" ::: "memory")
#define AFTER_LOAD() __asm__ volatile("lfence" ::: "memory")
#define ACCESS(type)                                                                                                   \
    static uint64_t load_##type(const void *at) { return *(const volatile type *)at; }                                 \
    static void store_##type(void *at, uint64_t value) { *(volatile type *)at = (type)value; }
ACCESS(uint8_t)
ACCESS(uint16_t)
ACCESS(uint32_t)
ACCESS(uint64_t)
#else
#error "no access to devices on this architecture"
#endif

/* Checks offset and width against the buffer; -1 with an exception set. The buffer is to be released where it is 0. */
static int take(PyObject *const *arguments, Py_ssize_t count, int is_store, Py_buffer *buffer, Py_ssize_t *offset,
                Py_ssize_t *width) {
    Py_ssize_t expected = is_store ? 4 : 3;
    if (count != expected) {
        PyErr_Format(PyExc_TypeError, "%zd arguments expected, not %zd", expected, count);
        return -1;
    }
    *offset = PyLong_AsSsize_t(arguments[1]);
    if (*offset == -1 && PyErr_Occurred())
        return -1;
    *width = PyLong_AsSsize_t(arguments[2]);
    if (*width == -1 && PyErr_Occurred())
        return -1;
    if (*width != 8 && *width != 16 && *width != 32 && *width != 64) {
        PyErr_Format(PyExc_ValueError, "width is 8, 16, 32 or 64 bits, not %zd", *width);
        return -1;
    }
    if (PyObject_GetBuffer(arguments[0], buffer, is_store ? PyBUF_WRITABLE : PyBUF_SIMPLE) < 0)
        return -1;
    Py_ssize_t bytes = *width / 8;
    if (*offset < 0 || bytes > buffer->len || *offset > buffer->len - bytes)
        PyErr_Format(PyExc_IndexError, "%zd bits at offset %zd are not within %zd bytes", *width, *offset, buffer->len);
    else if (((uintptr_t)buffer->buf + (size_t)*offset) % (size_t)bytes != 0)
        PyErr_Format(PyExc_ValueError, "offset %zd is not aligned for %zd bits", *offset, *width);
    else
        return 0;
    PyBuffer_Release(buffer);
    return -1;
}

static PyObject *load(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer buffer;
    Py_ssize_t offset, width;
    (void)module;
    if (take(arguments, count, 0, &buffer, &offset, &width) < 0)
        return NULL;
    const void *at = (const char *)buffer.buf + offset;
    uint64_t value = width == 8    ? load_uint8_t(at)
                     : width == 16 ? load_uint16_t(at)
                     : width == 32 ? load_uint32_t(at)
                                   : load_uint64_t(at);
    AFTER_LOAD();
    PyBuffer_Release(&buffer);
    return PyLong_FromUnsignedLongLong(value);
}

static PyObject *store(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    Py_buffer buffer;
    Py_ssize_t offset, width;
    (void)module;
    if (take(arguments, count, 1, &buffer, &offset, &width) < 0)
        return NULL;
    uint64_t value = PyLong_AsUnsignedLongLong(arguments[3]);
    if (value == UINT64_MAX && PyErr_Occurred()) {
        PyBuffer_Release(&buffer);
        return NULL;
    }
    if (width < 64 && value >> width != 0) {
        PyErr_Format(PyExc_OverflowError, "%llu does not fit into %zd bits", (unsigned long long)value, width);
        PyBuffer_Release(&buffer);
        return NULL;
    }
    void *at = (char *)buffer.buf + offset;
    BEFORE_STORE();
    switch (width) {
    case 8: store_uint8_t(at, value); break;
    case 16: store_uint16_t(at, value); break;
    case 32: store_uint32_t(at, value); break;
    default: store_uint64_t(at, value);
    }
    PyBuffer_Release(&buffer);
    return (PyObject *)_Py_NoneStruct;
}

static PyMethodDef methods[] = {
    {"load", load, METH_FASTCALL, "load(buffer, offset, width, /)\n--\n\nRead `width` bits in one access."},
    {"store", store, METH_FASTCALL, "store(buffer, offset, width, value, /)\n--\n\nWrite `width` bits in one access."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef definition = {
    .references = 1, .name = "_piton", .doc = "Single accesses to memory and device registers.", .methods = methods,
};

PyObject *PyInit__piton(void) {
    return PyModuleDef_Init(&definition);
}
