"""Cells of a canvas from the bytes of an image, and their colours.

A cell comes from the same operations in the same order wherever a box begins: setup.py keeps
the compiler from contracting them, which it would do in some cells and not in others.
"""

from libc.float cimport FLT_MIN
from libc.string cimport memcpy

include "real.pxi"

cdef enum:
    BLOCK = 128


cdef void mix_rows(
    const unsigned char* low, const unsigned char* high, real low_weight, real high_weight,
    real* band, Py_ssize_t elements,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(elements):
        band[i] = low[i] * low_weight + high[i] * high_weight


cdef void mix_columns(
    const real* band, const Py_ssize_t* low, const Py_ssize_t* high,
    const real* low_weights, const real* high_weights, real* target, Py_ssize_t count,
) noexcept nogil:
    """Four elements at a time, one vector, of pixels that have three.

    The next cell overwrites what is one too many; the last cell writes three.
    """
    cdef Py_ssize_t j, k
    cdef const real* first
    cdef const real* second
    cdef real[4] mixed
    for j in range(count):
        first = band + 3 * low[j]
        second = band + 3 * high[j]
        for k in range(4):
            mixed[k] = (first[k] * low_weights[j] + second[k] * high_weights[j]) / 255
        if j < count - 1:
            memcpy(target, mixed, 4 * sizeof(real))
        else:
            memcpy(target, mixed, 3 * sizeof(real))
        target += 3


def resample(
    const unsigned char[:, :, ::1] image, Py_ssize_t first_column,
    const Py_ssize_t[:, ::1] rows, const real[:, ::1] row_weights,
    const Py_ssize_t[:, ::1] columns, const real[:, ::1] column_weights,
    real[::1] band, real[:, :, :] out,
):
    """`columns` count from the first that is read; `band` holds a row of these and an element."""
    cdef Py_ssize_t i, elements = band.shape[0] - 1
    with nogil:
        band[elements] = 0
        for i in range(out.shape[0]):
            mix_rows(&image[rows[0, i], first_column, 0], &image[rows[1, i], first_column, 0],
                     row_weights[0, i], row_weights[1, i], &band[0], elements)
            mix_columns(&band[0], &columns[0, 0], &columns[1, 0], &column_weights[0, 0],
                        &column_weights[1, 0], &out[i, 0, 0], out.shape[1])


cdef inline real clipped(real value) noexcept nogil:
    value = value if value > 0 else 0
    return value if value < 1 else 1


cdef void change_planes(
    real* reds, real* greens, real* blues, Py_ssize_t count,
    real shift, real gain, real spread_gain,
) noexcept nogil:
    cdef Py_ssize_t j
    cdef real red, green, blue, value, least, spread, difference, base, sixths
    for j in range(count):
        red = reds[j]
        green = greens[j]
        blue = blues[j]
        value = red if red > green else green
        value = value if value > blue else blue
        least = red if red < green else green
        least = least if least < blue else blue
        spread = value - least
        difference = blue - red if green == value else red - green
        base = 2 if green == value else 4
        difference = green - blue if red == value else difference
        base = 0 if red == value else base
        # Only grey's spread is as small, which has no difference either.
        sixths = difference / (spread if spread > FLT_MIN else FLT_MIN) + base + shift
        sixths += 6 if sixths < 0 else 0
        sixths -= 6 if sixths >= 6 else 0
        value *= gain
        spread *= spread_gain
        reds[j] = clipped(value - clipped(2 - abs(sixths - 3)) * spread)
        greens[j] = clipped(value - clipped(abs(sixths - 2) - 1) * spread)
        blues[j] = clipped(value - clipped(abs(sixths - 4) - 1) * spread)


def change_colours(real[:, ::1] pixels, double shift, double gain, double spread_gain):
    """A block at a time, channels apart, as vectors want them."""
    cdef real[3][BLOCK] planes
    cdef Py_ssize_t j, k, first = 0, count
    with nogil:
        while first < pixels.shape[0]:
            count = min(<Py_ssize_t>BLOCK, pixels.shape[0] - first)
            for j in range(count):
                for k in range(3):
                    planes[k][j] = pixels[first + j, k]
            change_planes(planes[0], planes[1], planes[2], count,
                          <real>shift, <real>gain, <real>spread_gain)
            for j in range(count):
                for k in range(3):
                    pixels[first + j, k] = planes[k][j]
            first += count
