"""Cells of a box to and from flat buffers, one contiguous run a row."""

from libc.string cimport memcpy, memset

include "real.pxi"


def pack(
    const real[:, :, :, ::1] tile, real[::1] buffer, Py_ssize_t offset,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, run = columns * tile.shape[3]
    cdef real* target = &buffer[0] + offset
    with nogil:
        for n in range(tile.shape[0]):
            for i in range(row, row + rows):
                memcpy(target, &tile[n, i, column, 0], run * sizeof(real))
                target += run


def unpack(
    real[:, :, :, ::1] tile, const real[::1] buffer, Py_ssize_t offset,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, run = columns * tile.shape[3]
    cdef const real* source = &buffer[0] + offset
    with nogil:
        for n in range(tile.shape[0]):
            for i in range(row, row + rows):
                memcpy(&tile[n, i, column, 0], source, run * sizeof(real))
                source += run


def unpack_add(
    real[:, :, :, ::1] tile, const real[::1] buffer, Py_ssize_t offset,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, j, run = columns * tile.shape[3]
    cdef const real* source = &buffer[0] + offset
    cdef real* target
    with nogil:
        for n in range(tile.shape[0]):
            for i in range(row, row + rows):
                target = &tile[n, i, column, 0]
                for j in range(run):
                    target[j] += source[j]
                source += run


def clear(
    real[:, :, :, ::1] tile,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, run = columns * tile.shape[3]
    with nogil:
        for n in range(tile.shape[0]):
            for i in range(row, row + rows):
                memset(&tile[n, i, column, 0], 0, run * sizeof(real))
