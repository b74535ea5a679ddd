"""Max-pooling over windows that reach into the padding, and the mean of a whole tensor."""

include "real.pxi"

# Largest window of a max-pool: its position must fit one byte.
MAX_SIZE = 15


cdef struct Windows:
    # The output box, the input's tile, and the windows between them.
    Py_ssize_t rows, columns, channels
    Py_ssize_t height, width
    Py_ssize_t first_row, first_column  # of the first window, in the input's tile
    Py_ssize_t size, stride


cdef inline Py_ssize_t below(Py_ssize_t first) noexcept nogil:
    """The first cell of a window that lies in the tile."""
    return -first if first < 0 else 0


cdef void largest(
    Windows* w, const real* x, Py_ssize_t x_row, Py_ssize_t x_column,
    real* y, unsigned char* argmax,
) noexcept nogil:
    """All channels of one output pixel. The first cell inside decides unless one is larger."""
    # A local: byte stores may alias anything behind a pointer, and the loop's bound with it.
    cdef Py_ssize_t channels = w.channels
    cdef Py_ssize_t ky, kx, k
    cdef Py_ssize_t top = below(x_row), left = below(x_column)
    cdef Py_ssize_t bottom = min(w.size, w.height - x_row)
    cdef Py_ssize_t right = min(w.size, w.width - x_column)
    cdef const real* cell
    cdef unsigned char place
    cdef unsigned char more
    for ky in range(top, bottom):
        for kx in range(left, right):
            cell = x + ((x_row + ky) * w.width + x_column + kx) * channels
            place = <unsigned char>(ky * w.size + kx)
            if ky == top and kx == left:
                for k in range(channels):
                    y[k] = cell[k]
                    argmax[k] = place
            else:
                # Arithmetic in place of a choice of stores: that would not be vectorised.
                for k in range(channels):
                    more = cell[k] > y[k]
                    argmax[k] += (place - argmax[k]) * more
                    y[k] = cell[k] if more else y[k]


cdef void give_back(
    Windows* w, const real* dy, const unsigned char* argmax,
    real* dx, const Py_ssize_t* offsets,
) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(w.channels):
        dx[offsets[argmax[k]] + k] += dy[k]


def max_forward(
    const real[:, :, :, ::1] x, real[:, :, :, ::1] y, unsigned char[:, :, :, ::1] argmax,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t size, Py_ssize_t stride,
):
    cdef Windows w = Windows(rows, columns, x.shape[3], x.shape[1], x.shape[2],
                             x_row, x_column, size, stride)
    cdef Py_ssize_t n, i, j
    with nogil:
        for n in range(x.shape[0]):
            for i in range(rows):
                for j in range(columns):
                    largest(&w, &x[n, 0, 0, 0], x_row + i * stride, x_column + j * stride,
                            &y[n, y_row + i, y_column + j, 0],
                            &argmax[n, y_row + i, y_column + j, 0])


def max_backward(
    const real[:, :, :, ::1] dy, real[:, :, :, ::1] dx,
    const unsigned char[:, :, :, ::1] argmax,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t size, Py_ssize_t stride,
):
    cdef Windows w = Windows(rows, columns, dx.shape[3], dx.shape[1], dx.shape[2],
                             x_row, x_column, size, stride)
    cdef Py_ssize_t offsets[225]
    cdef Py_ssize_t n, i, j, window
    cdef real* target
    with nogil:
        for i in range(size):
            for j in range(size):
                offsets[i * size + j] = (i * w.width + j) * w.channels
        for n in range(dx.shape[0]):
            target = &dx[n, 0, 0, 0]
            for i in range(rows):
                for j in range(columns):
                    window = (x_row + i * stride) * w.width + x_column + j * stride
                    give_back(&w, &dy[n, y_row + i, y_column + j, 0],
                              &argmax[n, y_row + i, y_column + j, 0],
                              target + window * w.channels, offsets)


def cell_sums(const real[:, :, :, ::1] x, double[:, ::1] totals):
    """Add to `totals` (images, channels) the sums over all cells."""
    cdef Py_ssize_t n, i, j, k
    cdef const real* cell
    cdef double* total
    with nogil:
        for n in range(x.shape[0]):
            total = &totals[n, 0]
            for i in range(x.shape[1]):
                for j in range(x.shape[2]):
                    cell = &x[n, i, j, 0]
                    for k in range(x.shape[3]):
                        total[k] += cell[k]


def spread(real[:, :, :, ::1] dx, const real[:, ::1] shares):
    """Add `shares` (images, channels) to every cell."""
    cdef Py_ssize_t n, i, j, k
    cdef const real* share
    cdef real* cell
    with nogil:
        for n in range(dx.shape[0]):
            share = &shares[n, 0]
            for i in range(dx.shape[1]):
                for j in range(dx.shape[2]):
                    cell = &dx[n, i, j, 0]
                    for k in range(dx.shape[3]):
                        cell[k] += share[k]
