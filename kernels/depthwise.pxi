# Depthwise convolution in float32: runs of pixels that share their taps.

# Taps of the largest kernel, 11x11.
cdef enum:
    MOST_TAPS = 121


cdef struct Depthwise:
    Py_ssize_t height, width  # of the kernel
    Py_ssize_t stride
    Py_ssize_t first_row, first_column  # of the first window, in the input's field
    Py_ssize_t channels


cdef struct Reach:
    # Kernel positions `first`, `first + step`, ... below `stop` meet the other side.
    Py_ssize_t first, stop


cdef struct Taps:
    Py_ssize_t offsets[MOST_TAPS]  # from the run's first source cell
    Py_ssize_t places[MOST_TAPS]  # in the weights
    Py_ssize_t count


cdef inline Reach window_reach(Py_ssize_t first, Py_ssize_t size, Py_ssize_t length) noexcept nogil:
    """Positions of a window that starts at `first` inside a field of this length."""
    cdef Reach r
    r.first = max(0, -first)
    r.stop = max(r.first, min(size, length - first))
    return r


cdef inline Reach adjoint_reach(
    Py_ssize_t distance, Py_ssize_t size, Py_ssize_t stride, Py_ssize_t length
) noexcept nogil:
    """Positions k for which ``(distance - k) / stride`` is a window's number below `length`."""
    cdef Reach r
    cdef Py_ssize_t least = distance - (length - 1) * stride
    r.first = distance % stride
    if r.first < 0:
        r.first += stride
    if least > r.first:
        r.first += (least - r.first + stride - 1) // stride * stride
    r.stop = max(r.first, min(size, distance + 1))
    return r


cdef inline bint same(Reach a, Reach b) noexcept nogil:
    return a.first == b.first and a.stop == b.stop


cdef void list_taps(
    const Depthwise* d, Taps* taps, Reach rows, Reach columns, Py_ssize_t step,
    Py_ssize_t row, Py_ssize_t column, Py_ssize_t sign, Py_ssize_t row_elements,
) noexcept nogil:
    """Taps at kernel positions a `step` apart; the source cells of consecutive ones follow
    (`sign` 1) or precede (-1) each other, the first being at this row and column."""
    cdef Py_ssize_t ky, kx, source_row, source
    taps.count = 0
    source_row = row
    for ky from rows.first <= ky < rows.stop by step:
        source = source_row * row_elements + column * d.channels
        for kx from columns.first <= kx < columns.stop by step:
            taps.offsets[taps.count] = source
            taps.places[taps.count] = (ky * d.width + kx) * d.channels
            taps.count += 1
            source += sign * d.channels
        source_row += sign


cdef void depthwise_rows(
    const Depthwise* d, const Field* x, const Field* y, const float* weights,
    float* dweights, const Epilogue* after,
) noexcept nogil:
    """Forward with `weights`, or the gradient of the weights from y into `dweights`."""
    cdef Taps taps
    cdef Reach rows, columns
    cdef Py_ssize_t n, i, j, run, top, left
    for i in range(y.rows):
        top = d.first_row + i * d.stride
        rows = window_reach(top, d.height, x.rows)
        j = 0
        while j < y.columns:
            left = d.first_column + j * d.stride
            columns = window_reach(left, d.width, x.columns)
            run = 1
            while j + run < y.columns and same(
                columns, window_reach(left + run * d.stride, d.width, x.columns)
            ):
                run += 1
            list_taps(d, &taps, rows, columns, 1, top + rows.first, left + columns.first, 1, x.row)
            for n in range(y.images):
                if dweights == NULL:
                    simd.taps(cell(x, n, 0, 0), d.stride * d.channels, <ptrdiff_t*>taps.offsets,
                              weights, <ptrdiff_t*>taps.places, taps.count, cell(y, n, i, j),
                              d.channels, run, d.channels, after)
                else:
                    simd.taps_gradient(
                        cell(x, n, 0, 0), d.stride * d.channels, <ptrdiff_t*>taps.offsets,
                        <ptrdiff_t*>taps.places, taps.count, cell(y, n, i, j), d.channels, run,
                        d.channels, dweights)
            j += run


cdef void depthwise_adjoint(
    const Depthwise* d, const Field* dy, const Field* dx, const float* weights,
    const Epilogue* after,
) noexcept nogil:
    """Every cell of dx gathers from the windows that hold it; cells a stride apart share taps."""
    cdef Taps taps
    cdef Reach rows, columns
    cdef Py_ssize_t n, i, j, phase, run, down, across
    for i in range(dx.rows):
        down = i - d.first_row
        rows = adjoint_reach(down, d.height, d.stride, dy.rows)
        for phase in range(min(d.stride, dx.columns)):
            j = phase
            while j < dx.columns:
                across = j - d.first_column
                columns = adjoint_reach(across, d.width, d.stride, dy.columns)
                run = 1
                while j + run * d.stride < dx.columns and same(
                    columns, adjoint_reach(across + run * d.stride, d.width, d.stride, dy.columns)
                ):
                    run += 1
                list_taps(d, &taps, rows, columns, d.stride, (down - rows.first) // d.stride,
                          (across - columns.first) // d.stride, -1, dy.row)
                for n in range(dx.images):
                    simd.taps(cell(dy, n, 0, 0), d.channels, <ptrdiff_t*>taps.offsets, weights,
                              <ptrdiff_t*>taps.places, taps.count, cell(dx, n, i, j),
                              d.stride * d.channels, run, d.channels, after)
                j += run * d.stride


cdef Depthwise depthwise(const float[:, :, :, ::1] weights, Place window,
                         Py_ssize_t stride) noexcept:
    return Depthwise(weights.shape[0], weights.shape[1], stride, window[0], window[1],
                     weights.shape[3])


def depthwise_forward_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] y, BoxOf y_box, Place window, Py_ssize_t stride,
    const float[::1] biases, float slope,
):
    cdef Depthwise d = depthwise(weights, window, stride)
    cdef Field source = field_of(x, x_box), target = field_of(y, y_box)
    cdef Epilogue after = epilogue(biases, slope, False)
    with nogil:
        depthwise_rows(&d, &source, &target, &weights[0, 0, 0, 0], NULL, &after)


def depthwise_backward_input_box(
    const float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] dx, BoxOf dx_box, Place window, Py_ssize_t stride, bint add,
):
    """`window`: dy's first, in dx."""
    cdef Depthwise d = depthwise(weights, window, stride)
    cdef Field source = field_of(dy, dy_box), target = field_of(dx, dx_box)
    cdef Epilogue after = epilogue(None, 1, add)
    with nogil:
        depthwise_adjoint(&d, &source, &target, &weights[0, 0, 0, 0], &after)


def depthwise_backward_weights_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] dy, BoxOf dy_box,
    float[:, :, :, ::1] dweights, Place window, Py_ssize_t stride,
):
    """Adds to `dweights`."""
    cdef Depthwise d = depthwise(dweights, window, stride)
    cdef Field source = field_of(x, x_box), delta = field_of(dy, dy_box)
    with nogil:
        depthwise_rows(&d, &source, &delta, NULL, &dweights[0, 0, 0, 0], NULL)
