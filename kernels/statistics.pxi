# Batch norm in float32, row by row; batchnorm.pyx does the same in float64.

def sums_box(const float[:, :, :, ::1] x, BoxOf box, double[::1] total):
    cdef Field f = field_of(x, box)
    cdef Py_ssize_t n, i
    with nogil:
        for n in range(f.images):
            for i in range(f.rows):
                simd.sums(cell(&f, n, i, 0), f.columns, f.channels, &total[0])


def squares_box(const float[:, :, :, ::1] x, BoxOf box, const double[::1] mean,
                double[::1] square):
    cdef Field f = field_of(x, box)
    cdef Py_ssize_t n, i
    with nogil:
        for n in range(f.images):
            for i in range(f.rows):
                simd.squares(cell(&f, n, i, 0), &mean[0], f.columns, f.channels, &square[0])


def products_box(const float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] x,
                 BoxOf x_box, const double[::1] mean, double[:, ::1] out):
    cdef Field delta = field_of(dy, dy_box), f = field_of(x, x_box)
    cdef Py_ssize_t n, i
    with nogil:
        for n in range(f.images):
            for i in range(f.rows):
                simd.products(cell(&delta, n, i, 0), cell(&f, n, i, 0), &mean[0], f.columns,
                              f.channels, &out[0, 0], &out[1, 0])


def normalize_box(
    const float[:, :, :, ::1] x, BoxOf x_box, float[:, :, :, ::1] y, BoxOf y_box,
    const float[::1] mean, const float[::1] factor, const float[::1] biases, float slope,
):
    cdef Field source = field_of(x, x_box), target = field_of(y, y_box)
    cdef Py_ssize_t n, i
    with nogil:
        for n in range(source.images):
            for i in range(source.rows):
                simd.normalize(cell(&source, n, i, 0), cell(&target, n, i, 0), &mean[0],
                               &factor[0], &biases[0], slope, source.columns, source.channels)


def centre_box(
    float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] x, BoxOf x_box,
    const float[::1] mean, const float[::1] factor, const float[::1] shift,
    const float[::1] tilt,
):
    cdef Field delta = field_of(dy, dy_box), f = field_of(x, x_box)
    cdef Py_ssize_t n, i
    with nogil:
        for n in range(f.images):
            for i in range(f.rows):
                simd.centre(cell(&delta, n, i, 0), cell(&f, n, i, 0), &mean[0], &factor[0],
                            &shift[0], &tilt[0], f.columns, f.channels)
