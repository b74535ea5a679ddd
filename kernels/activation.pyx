"""Bias and activation in place, and their gradients."""

from libc.math cimport exp, expf

include "real.pxi"

cdef enum Kind:
    LINEAR
    LEAKY
    RELU
    LOGISTIC
    MISH

KINDS = {"linear": LINEAR, "leaky": LEAKY, "relu": RELU, "logistic": LOGISTIC, "mish": MISH}

# From here on mish is the identity in any precision, and its derivative one.
cdef enum:
    MISH_LINEAR = 20


cdef inline real logistic(real value) noexcept nogil:
    if real is float:
        return 1 / (1 + expf(-value))
    else:
        return 1 / (1 + exp(-value))


cdef inline real exponential(real value) noexcept nogil:
    if real is float:
        return expf(value)
    else:
        return exp(value)


cdef inline real mish(real x) noexcept nogil:
    """``x tanh(log(1 + exp x))``; with ``e = exp x`` the second factor is n / (n + 2) for
    ``n = e (e + 2)``, which cancels nowhere."""
    cdef real e = exponential(x if x < MISH_LINEAR else <real>MISH_LINEAR)
    cdef real n = e * (e + 2)
    return x * (n / (n + 2)) if x < MISH_LINEAR else x


cdef inline real mish_slope(real x) noexcept nogil:
    cdef real e = exponential(x if x < MISH_LINEAR else <real>MISH_LINEAR)
    cdef real n = e * (e + 2)
    cdef real slope = n / (n + 2) + x * (4 * e / (n + 2)) * ((e + 1) / (n + 2))
    return slope if x < MISH_LINEAR else 1


cdef void activate(
    real* y, const real* biases, Py_ssize_t pixels, Py_ssize_t channels, Kind kind
) noexcept nogil:
    cdef Py_ssize_t i, k
    cdef real value, slope = 0.1 if kind == LEAKY else 0
    for i in range(pixels):
        if kind == LINEAR:
            for k in range(channels):
                y[k] += biases[k]
        elif kind == LOGISTIC:
            for k in range(channels):
                y[k] = logistic(y[k] + biases[k])
        elif kind == MISH:
            for k in range(channels):
                y[k] = mish(y[k] + biases[k])
        else:
            for k in range(channels):
                value = y[k] + biases[k]
                y[k] = value if value > 0 else slope * value
        y += channels


cdef void multiply_by_slope(
    real* dy, const real* y, Py_ssize_t elements, Kind kind
) noexcept nogil:
    cdef Py_ssize_t i
    cdef real slope = 0.1 if kind == LEAKY else 0
    if kind == LOGISTIC:
        for i in range(elements):
            dy[i] *= y[i] * (1 - y[i])
    else:
        for i in range(elements):
            dy[i] *= 1 if y[i] > 0 else slope


def forward(
    real[:, :, :, ::1] y, const real[::1] biases, Kind kind,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = y.shape[3]
    with nogil:
        for n in range(y.shape[0]):
            for i in range(row, row + rows):
                activate(&y[n, i, column, 0], &biases[0], columns, channels, kind)


def backward(
    real[:, :, :, ::1] dy, const real[:, :, :, ::1] y, Kind kind,
    Py_ssize_t dy_row, Py_ssize_t dy_column, Py_ssize_t y_row, Py_ssize_t y_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, elements = columns * y.shape[3]
    with nogil:
        for n in range(y.shape[0]):
            for i in range(rows):
                multiply_by_slope(&dy[n, dy_row + i, dy_column, 0],
                                  &y[n, y_row + i, y_column, 0], elements, kind)


def backward_before(
    real[:, :, :, ::1] dy, const real[:, :, :, ::1] x, const real[::1] mean,
    const real[::1] factor, const real[::1] biases,
    Py_ssize_t dy_row, Py_ssize_t dy_column, Py_ssize_t x_row, Py_ssize_t x_column,
    Py_ssize_t rows, Py_ssize_t columns,
):
    """Multiply dy by mish's slope at ``(x - mean) factor + biases``."""
    cdef Py_ssize_t n, i, j, k
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                for j in range(columns):
                    for k in range(x.shape[3]):
                        dy[n, dy_row + i, dy_column + j, k] *= mish_slope(
                            (x[n, x_row + i, x_column + j, k] - mean[k]) * factor[k] + biases[k])


cdef void add_channels(
    const real* values, double* totals, Py_ssize_t pixels, Py_ssize_t channels
) noexcept nogil:
    cdef Py_ssize_t i, k
    for i in range(pixels):
        for k in range(channels):
            totals[k] += values[k]
        values += channels


def channel_sums(
    const real[:, :, :, ::1] dy, double[::1] totals,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns,
):
    cdef Py_ssize_t n, i, channels = dy.shape[3]
    with nogil:
        for n in range(dy.shape[0]):
            for i in range(row, row + rows):
                add_channels(&dy[n, i, column, 0], &totals[0], columns, channels)
