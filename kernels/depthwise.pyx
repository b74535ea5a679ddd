"""Depthwise convolution in float64, by the names and arguments that fast.pyx has in float32."""

ctypedef (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) BoxOf
ctypedef (Py_ssize_t, Py_ssize_t) Place


cdef enum Work:
    FORWARD
    BACKWARD_INPUT
    BACKWARD_WEIGHTS


cdef void walk(
    double[:, :, :, ::1] x, BoxOf x_box, double[:, :, :, ::1] weights, double[:, :, :, ::1] y,
    BoxOf y_box, Place window, Py_ssize_t stride, Work work,
) noexcept nogil:
    """Every tap of every window, whichever of the three arrays takes the sums."""
    cdef Py_ssize_t n, i, j, ky, kx, k, row, column
    cdef double* source
    cdef double* weight
    cdef double* target
    for n in range(y.shape[0]):
        for i in range(y_box[2]):
            for j in range(y_box[3]):
                target = &y[n, y_box[0] + i, y_box[1] + j, 0]
                for ky in range(weights.shape[0]):
                    row = window[0] + i * stride + ky
                    if row < 0 or row >= x_box[2]:
                        continue
                    for kx in range(weights.shape[1]):
                        column = window[1] + j * stride + kx
                        if column < 0 or column >= x_box[3]:
                            continue
                        source = &x[n, x_box[0] + row, x_box[1] + column, 0]
                        weight = &weights[ky, kx, 0, 0]
                        for k in range(y.shape[3]):
                            if work == FORWARD:
                                target[k] += source[k] * weight[k]
                            elif work == BACKWARD_INPUT:
                                source[k] += target[k] * weight[k]
                            else:
                                weight[k] += source[k] * target[k]


def depthwise_forward_box(
    double[:, :, :, ::1] x, BoxOf x_box, double[:, :, :, ::1] weights,
    double[:, :, :, ::1] y, BoxOf y_box, Place window, Py_ssize_t stride,
):
    """Adds to `y`."""
    with nogil:
        walk(x, x_box, weights, y, y_box, window, stride, FORWARD)


def depthwise_backward_input_box(
    double[:, :, :, ::1] dy, BoxOf dy_box, double[:, :, :, ::1] weights,
    double[:, :, :, ::1] dx, BoxOf dx_box, Place window, Py_ssize_t stride,
):
    """Adds to `dx`. `window`: dy's first, in dx."""
    with nogil:
        walk(dx, dx_box, weights, dy, dy_box, window, stride, BACKWARD_INPUT)


def depthwise_backward_weights_box(
    double[:, :, :, ::1] x, BoxOf x_box, double[:, :, :, ::1] dy, BoxOf dy_box,
    double[:, :, :, ::1] dweights, Place window, Py_ssize_t stride,
):
    """Adds to `dweights`."""
    with nogil:
        walk(x, x_box, dweights, dy, dy_box, window, stride, BACKWARD_WEIGHTS)
