"""Dropout by a counter-based hash: a cell's fate depends on its place alone."""

from libc.stdint cimport uint64_t

include "real.pxi"

cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15


cdef inline uint64_t mixed(uint64_t state, uint64_t counter) noexcept nogil:
    """One step of splitmix64 (Steele, Lea and Flood 2014) from `state`, `counter` steps on."""
    cdef uint64_t z = state + (counter + 1) * GOLDEN
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef inline uint64_t cell_state(
    uint64_t key, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column
) noexcept nogil:
    return mixed(mixed(mixed(key, <uint64_t>image), <uint64_t>row), <uint64_t>column)


cdef inline bint kept(uint64_t state, Py_ssize_t channel, uint64_t threshold) noexcept nogil:
    """Whether the hash's upper 53 bits reach the probability times 2**53."""
    return (mixed(state, <uint64_t>channel) >> 11) >= threshold


def forward(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] y, double probability,
    uint64_t key, Py_ssize_t first_image,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t y_row, Py_ssize_t y_column,
    Py_ssize_t first_row, Py_ssize_t first_column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, j, k
    cdef uint64_t state, threshold = <uint64_t>(probability * 9007199254740992.0)
    cdef real factor = <real>(1 / (1 - probability))
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                for j in range(columns):
                    state = cell_state(key, first_image + n, first_row + i, first_column + j)
                    for k in range(x.shape[3]):
                        y[n, y_row + i, y_column + j, k] = (
                            x[n, x_row + i, x_column + j, k] * factor
                            if kept(state, k, threshold) else 0
                        )


def backward(
    const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx, double probability,
    uint64_t key, Py_ssize_t first_image,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t x_row, Py_ssize_t x_column,
    Py_ssize_t first_row, Py_ssize_t first_column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, j, k
    cdef uint64_t state, threshold = <uint64_t>(probability * 9007199254740992.0)
    cdef real factor = <real>(1 / (1 - probability))
    with nogil:
        for n in range(dx.shape[0]):
            for i in range(rows):
                for j in range(columns):
                    state = cell_state(key, first_image + n, first_row + i, first_column + j)
                    for k in range(dx.shape[3]):
                        if kept(state, k, threshold):
                            dx[n, x_row + i, x_column + j, k] += (
                                dy[n, y_row + i, y_column + j, k] * factor
                            )
