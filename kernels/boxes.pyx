"""Cells from one strided array to another, a contiguous run at a time, many boxes in a call."""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy, memset

include "real.pxi"

ctypedef void (*Loop)(char*, char*, Py_ssize_t) noexcept nogil


cdef struct Move:
    Loop loop
    # Where the first run is and goes, and how long it is; this and the steps are in bytes.
    char* target
    char* source
    Py_ssize_t size
    # How many runs there are along images, rows and columns.
    Py_ssize_t[3] counts
    Py_ssize_t[3] target_steps
    Py_ssize_t[3] source_steps


cdef void copy(char* target, char* source, Py_ssize_t size) noexcept nogil:
    memcpy(target, source, size)


cdef void take(char* target, char* source, Py_ssize_t size) noexcept nogil:
    memcpy(target, source, size)
    memset(source, 0, size)


cdef inline void add(real* target, const real* source, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        target[i] += source[i]


cdef void add_floats(char* target, char* source, Py_ssize_t size) noexcept nogil:
    add(<float*>target, <const float*>source, size // <Py_ssize_t>sizeof(float))


cdef void add_doubles(char* target, char* source, Py_ssize_t size) noexcept nogil:
    add(<double*>target, <const double*>source, size // <Py_ssize_t>sizeof(double))


cdef Loop loop_of(str operation, str dtype) except NULL:
    if operation == "add":
        return add_floats if dtype == "float32" else add_doubles
    return take if operation == "take" else copy


cdef Move move_of(
    Loop loop, unsigned char[:, :, :, :] target, unsigned char[:, :, :, :] source,
) noexcept:
    cdef Py_ssize_t axis
    cdef Move m
    m.loop = loop
    m.target = <char*>&target[0, 0, 0, 0]
    m.source = <char*>&source[0, 0, 0, 0]
    m.size = target.shape[3]
    for axis in range(2, -1, -1):
        m.counts[axis] = target.shape[axis]
        m.target_steps[axis] = target.strides[axis]
        m.source_steps[axis] = source.strides[axis]
        # Never so outside a gap, as that makes the step longer than a run.
        if m.counts[axis] == 1 or m.target_steps[axis] == m.source_steps[axis] == m.size:
            m.size *= m.counts[axis]
            m.counts[axis] = 1
    return m


cdef void run(const Move* m) noexcept nogil:
    cdef Py_ssize_t i, j, k
    cdef char* target
    cdef char* source
    for i in range(m.counts[0]):
        for j in range(m.counts[1]):
            target = m.target + i * m.target_steps[0] + j * m.target_steps[1]
            source = m.source + i * m.source_steps[0] + j * m.source_steps[1]
            for k in range(m.counts[2]):
                m.loop(target, source, m.size)
                target += m.target_steps[2]
                source += m.source_steps[2]


cdef class Moves:
    """Does all of them in turn when called, and keeps their memory alive.

    Each is the names of operation and dtype, and the bytes of target and source: not empty, of
    four dimensions, the last contiguous. Nothing else is checked here.
    """

    cdef Move* moves
    cdef Py_ssize_t count
    cdef list kept

    def __cinit__(self, list moves):
        cdef unsigned char[:, :, :, :] target, source
        self.kept = []
        self.moves = <Move*>PyMem_Calloc(len(moves), sizeof(Move))
        if self.moves == NULL:
            raise MemoryError
        for operation, dtype, target, source in moves:
            self.moves[self.count] = move_of(loop_of(operation, dtype), target, source)
            self.count += 1
            self.kept.append((target, source))

    def __dealloc__(self):
        PyMem_Free(self.moves)

    def __call__(self):
        cdef Py_ssize_t i
        # Other threads are not let in for nothing.
        if self.count:
            with nogil:
                for i in range(self.count):
                    run(&self.moves[i])
