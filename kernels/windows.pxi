# Max-pool windows in float32; pool.pyx does the same in any dtype.

cdef struct Windows:
    Py_ssize_t height, width, channels  # of the input's tile
    Py_ssize_t size


cdef Py_ssize_t window_cells(
    const Windows* w, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t* offsets, unsigned char* places,
) noexcept nogil:
    """The cells of the window at this row and column that lie in the tile."""
    cdef Py_ssize_t ky, kx, cells = 0
    for ky in range(max(0, -row), min(w.size, w.height - row)):
        for kx in range(max(0, -column), min(w.size, w.width - column)):
            offsets[cells] = ((row + ky) * w.width + column + kx) * w.channels
            places[cells] = <unsigned char>(ky * w.size + kx)
            cells += 1
    return cells


def max_forward_box(
    const float[:, :, :, ::1] x, float[:, :, :, ::1] y, unsigned char[:, :, :, ::1] argmax,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t size, Py_ssize_t stride,
):
    cdef Windows w = Windows(x.shape[1], x.shape[2], x.shape[3], size)
    cdef Py_ssize_t offsets[225]
    cdef unsigned char places[225]
    cdef Py_ssize_t n, i, j, cells
    with nogil:
        for i in range(rows):
            for j in range(columns):
                cells = window_cells(&w, x_row + i * stride, x_column + j * stride,
                                     offsets, places)
                for n in range(x.shape[0]):
                    simd.largest(&x[n, 0, 0, 0], <ptrdiff_t*>offsets, places, cells, w.channels,
                                 &y[n, y_row + i, y_column + j, 0],
                                 &argmax[n, y_row + i, y_column + j, 0])


def max_backward_box(
    const float[:, :, :, ::1] dy, float[:, :, :, ::1] dx,
    const unsigned char[:, :, :, ::1] argmax,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t size, Py_ssize_t stride,
    bint add,
):
    cdef Windows w = Windows(dx.shape[1], dx.shape[2], dx.shape[3], size)
    cdef Py_ssize_t offsets[225]
    cdef unsigned char places[225]
    cdef Py_ssize_t n, i, j, cells
    with nogil:
        for i in range(rows):
            for j in range(columns):
                cells = window_cells(&w, x_row + i * stride, x_column + j * stride,
                                     offsets, places)
                for n in range(dx.shape[0]):
                    simd.give_back(&dy[n, y_row + i, y_column + j, 0],
                                   &argmax[n, y_row + i, y_column + j, 0],
                                   <ptrdiff_t*>offsets, places, cells, w.channels, &dx[n, 0, 0, 0],
                                   add)
