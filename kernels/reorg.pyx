"""Darknet's reorganisation of a flat channels-first buffer, on channels-last tiles."""

include "real.pxi"


cdef struct Sizes:
    # Of the whole input; the output has height // stride rows and so on.
    Py_ssize_t height, width, channels, stride


cdef inline Py_ssize_t source(
    Sizes* s, Py_ssize_t row, Py_ssize_t column, Py_ssize_t channel
) noexcept nogil:
    """The element of a channels-last input that an output element copies.

    The output's place in the flat channels-first buffer is first read as a place of
    the *input's* shape; that cell names an element of a buffer of the shape
    (channels / stride**2, height stride, width stride), which is the same flat input.
    """
    cdef Py_ssize_t planes = s.channels // (s.stride * s.stride)
    cdef Py_ssize_t flat, i, j, k, phase, wide_row, wide_column
    flat = (channel * (s.height // s.stride) + row) * (s.width // s.stride) + column
    i = flat % s.width
    j = flat // s.width % s.height
    k = flat // (s.width * s.height)
    phase = k // planes
    wide_row = j * s.stride + phase // s.stride
    wide_column = i * s.stride + phase % s.stride
    flat = ((k % planes) * s.height * s.stride + wide_row) * s.width * s.stride + wide_column
    i = flat % s.width
    j = flat // s.width % s.height
    k = flat // (s.width * s.height)
    return (j * s.width + i) * s.channels + k


def forward(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] y, Py_ssize_t stride,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t first_row, Py_ssize_t first_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Sizes s = Sizes(x.shape[1], x.shape[2], x.shape[3], stride)
    cdef Py_ssize_t n, i, j, k, element
    cdef Py_ssize_t image = s.height * s.width * s.channels
    cdef const real* values = &x[0, 0, 0, 0]
    with nogil:
        for i in range(rows):
            for j in range(columns):
                for k in range(y.shape[3]):
                    element = source(&s, first_row + i, first_column + j, k)
                    for n in range(x.shape[0]):
                        y[n, y_row + i, y_column + j, k] = values[n * image + element]


def backward(
    const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx, Py_ssize_t stride,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t first_row, Py_ssize_t first_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Sizes s = Sizes(dx.shape[1], dx.shape[2], dx.shape[3], stride)
    cdef Py_ssize_t n, i, j, k, element
    cdef Py_ssize_t image = s.height * s.width * s.channels
    cdef real* values = &dx[0, 0, 0, 0]
    with nogil:
        for i in range(rows):
            for j in range(columns):
                for k in range(dy.shape[3]):
                    element = source(&s, first_row + i, first_column + j, k)
                    for n in range(dx.shape[0]):
                        values[n * image + element] += dy[n, y_row + i, y_column + j, k]
