"""Batch normalisation in float64, by the names and arguments that fast.pyx has in float32."""

ctypedef (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) BoxOf


def sums_box(const double[:, :, :, ::1] x, BoxOf box, double[::1] total):
    cdef Py_ssize_t n, i, j, k
    with nogil:
        for n in range(x.shape[0]):
            for i in range(box[0], box[0] + box[2]):
                for j in range(box[1], box[1] + box[3]):
                    for k in range(x.shape[3]):
                        total[k] += x[n, i, j, k]


def squares_box(const double[:, :, :, ::1] x, BoxOf box, const double[::1] mean,
                double[::1] square):
    cdef Py_ssize_t n, i, j, k
    cdef double value
    with nogil:
        for n in range(x.shape[0]):
            for i in range(box[0], box[0] + box[2]):
                for j in range(box[1], box[1] + box[3]):
                    for k in range(x.shape[3]):
                        value = x[n, i, j, k] - mean[k]
                        square[k] += value * value


def products_box(const double[:, :, :, ::1] dy, BoxOf dy_box, const double[:, :, :, ::1] x,
                 BoxOf x_box, const double[::1] mean, double[:, ::1] out):
    cdef Py_ssize_t n, i, j, k
    cdef double value
    with nogil:
        for n in range(x.shape[0]):
            for i in range(x_box[2]):
                for j in range(x_box[3]):
                    for k in range(x.shape[3]):
                        value = dy[n, dy_box[0] + i, dy_box[1] + j, k]
                        out[0, k] += value
                        out[1, k] += value * (x[n, x_box[0] + i, x_box[1] + j, k] - mean[k])


def normalize_box(
    const double[:, :, :, ::1] x, BoxOf x_box, double[:, :, :, ::1] y, BoxOf y_box,
    const double[::1] mean, const double[::1] factor, const double[::1] biases, double slope,
):
    cdef Py_ssize_t n, i, j, k
    cdef double value
    with nogil:
        for n in range(x.shape[0]):
            for i in range(x_box[2]):
                for j in range(x_box[3]):
                    for k in range(x.shape[3]):
                        value = x[n, x_box[0] + i, x_box[1] + j, k] - mean[k]
                        value = value * factor[k] + biases[k]
                        y[n, y_box[0] + i, y_box[1] + j, k] = (
                            value if value > 0 else value * slope)


def centre_box(
    double[:, :, :, ::1] dy, BoxOf dy_box, const double[:, :, :, ::1] x, BoxOf x_box,
    const double[::1] mean, const double[::1] factor, const double[::1] shift,
    const double[::1] tilt,
):
    cdef Py_ssize_t n, i, j, k
    cdef double value
    with nogil:
        for n in range(x.shape[0]):
            for i in range(x_box[2]):
                for j in range(x_box[3]):
                    for k in range(x.shape[3]):
                        value = (x[n, x_box[0] + i, x_box[1] + j, k] - mean[k]) * tilt[k]
                        value = dy[n, dy_box[0] + i, dy_box[1] + j, k] - shift[k] - value
                        dy[n, dy_box[0] + i, dy_box[1] + j, k] = value * factor[k]
