"""Sums, normalisation and gradients of batch normalisation, channel by channel."""

include "real.pxi"


cdef void add_values(
    const real* x, double* total, Py_ssize_t pixels, Py_ssize_t channels
) noexcept nogil:
    cdef Py_ssize_t i, k
    for i in range(pixels):
        for k in range(channels):
            total[k] += x[k]
        x += channels


cdef void add_squares(
    const real* x, const double* mean, double* square, Py_ssize_t pixels, Py_ssize_t channels
) noexcept nogil:
    cdef Py_ssize_t i, k
    cdef double value
    for i in range(pixels):
        for k in range(channels):
            value = x[k] - mean[k]
            square[k] += value * value
        x += channels


cdef void add_products(
    const real* dy, const real* x, const double* mean, double* total, double* product,
    Py_ssize_t pixels, Py_ssize_t channels,
) noexcept nogil:
    cdef Py_ssize_t i, k
    cdef double value
    for i in range(pixels):
        for k in range(channels):
            value = dy[k]
            total[k] += value
            product[k] += value * (x[k] - mean[k])
        dy += channels
        x += channels


cdef void scale_and_shift(
    const real* x, real* y, const real* mean, const real* factor, const real* biases,
    Py_ssize_t pixels, Py_ssize_t channels,
) noexcept nogil:
    cdef Py_ssize_t i, k
    for i in range(pixels):
        for k in range(channels):
            y[k] = (x[k] - mean[k]) * factor[k] + biases[k]
        x += channels
        y += channels


cdef void scale_only(
    real* dy, const real* factor, Py_ssize_t pixels, Py_ssize_t channels
) noexcept nogil:
    cdef Py_ssize_t i, k
    for i in range(pixels):
        for k in range(channels):
            dy[k] *= factor[k]
        dy += channels


cdef void scale_and_centre(
    real* dy, const real* x, const real* mean, const real* factor,
    const real* shift, const real* slope, Py_ssize_t pixels, Py_ssize_t channels,
) noexcept nogil:
    cdef Py_ssize_t i, k
    for i in range(pixels):
        for k in range(channels):
            dy[k] = (dy[k] - shift[k] - (x[k] - mean[k]) * slope[k]) * factor[k]
        dy += channels
        x += channels


def sums(
    const real[:, :, :, ::1] x, double[::1] out,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = x.shape[3]
    with nogil:
        for n in range(x.shape[0]):
            for i in range(row, row + rows):
                add_values(&x[n, i, column, 0], &out[0], columns, channels)


def squares(
    const real[:, :, :, ::1] x, const double[::1] mean, double[::1] out,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = x.shape[3]
    with nogil:
        for n in range(x.shape[0]):
            for i in range(row, row + rows):
                add_squares(&x[n, i, column, 0], &mean[0], &out[0], columns, channels)


def normalize(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] y,
    const real[::1] mean, const real[::1] factor, const real[::1] biases,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t y_row, Py_ssize_t y_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = x.shape[3]
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                scale_and_shift(&x[n, x_row + i, x_column, 0], &y[n, y_row + i, y_column, 0],
                                &mean[0], &factor[0], &biases[0], columns, channels)


def backward_sums(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] x,
    const double[::1] mean, double[:, ::1] out,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t x_row, Py_ssize_t x_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = x.shape[3]
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                add_products(&dy[n, y_row + i, y_column, 0], &x[n, x_row + i, x_column, 0],
                             &mean[0], &out[0, 0], &out[1, 0], columns, channels)


def scale(
    real[:, :, :, ::1] dy, const real[::1] factor,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = dy.shape[3]
    with nogil:
        for n in range(dy.shape[0]):
            for i in range(row, row + rows):
                scale_only(&dy[n, i, column, 0], &factor[0], columns, channels)


def backward(
    real[:, :, :, ::1] dy, const real[:, :, :, ::1] x,
    const real[::1] mean, const real[::1] factor,
    const real[::1] shift, const real[::1] slope,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t x_row, Py_ssize_t x_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = x.shape[3]
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                scale_and_centre(&dy[n, y_row + i, y_column, 0], &x[n, x_row + i, x_column, 0],
                                 &mean[0], &factor[0], &shift[0], &slope[0],
                                 columns, channels)
