# Products of windows in place: a window's row is one run of kernel width times channels, and
# the runs of neighbouring pixels overlap. Nothing but the field's edge is copied.

cdef struct Direct:
    Py_ssize_t height, width  # of the kernel
    Py_ssize_t stride
    Py_ssize_t first_row, first_column  # of the first window, in the field


# Pixels that meet one panel of weights before the next one comes.
cdef enum:
    GROUP = 168
    WEIGHT_GROUP = 252


# Rows of weights on their way from memory while one is copied.
cdef enum:
    ROWS_AHEAD = 24


# Elements of the panels that are packed and used at a time: they stay in L2.
cdef enum:
    PANELS = 327680


cdef Py_ssize_t filters_at_once(Py_ssize_t rows, Py_ssize_t filters) noexcept nogil:
    """How many filters' panels of this many rows are packed before they are used."""
    return min(max(PANELS // rows // 32, 1) * 32, filters)


cdef void pack(
    const float* source, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t columns, float* panels
) noexcept nogil:
    """(rows, columns), rows a step apart, to panels (rows, panel) of columns, the last one filled with zeros."""
    cdef Py_ssize_t first, count, i
    for first from 0 <= first < columns by simd.panel:
        count = min(simd.panel, columns - first)
        for i in range(rows):
            fetch(source + (i + ROWS_AHEAD) * step + first, count)
            memcpy(panels, source + i * step + first, count * sizeof(float))
            if count < simd.panel:
                memset(panels + count, 0, (simd.panel - count) * sizeof(float))
            panels += simd.panel


cdef void pack_adjoint(
    const float* weights, Py_ssize_t taps, Py_ssize_t channels, Py_ssize_t filters,
    Py_ssize_t count, float* panels,
) noexcept nogil:
    """`count` of the channels of weights (taps, C, K) to panels with rows (taps backwards, K)."""
    cdef Py_ssize_t first, tap
    if count % simd.panel:
        memset(panels, 0, taps * filters * up(count, simd.panel) * sizeof(float))
    for first from 0 <= first < count by simd.panel:
        for tap in range(taps):
            transpose(weights + ((taps - 1 - tap) * channels + first) * filters, filters,
                      min(simd.panel, count - first), filters,
                      panels + (first * taps + tap * simd.panel) * filters, simd.panel)


cdef struct Rows:
    # A group of rows of windows: where they lie, whether in the field or in a copy.
    const float* cells
    Py_ssize_t row


cdef Rows window_rows(
    const Direct* d, const Field* x, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns, float* copy,
) noexcept nogil:
    cdef Rows group
    cdef Py_ssize_t x_row = d.first_row + row * d.stride
    cdef Py_ssize_t x_column = d.first_column + column * d.stride
    cdef Py_ssize_t height = (rows - 1) * d.stride + d.height
    cdef Py_ssize_t width = (columns - 1) * d.stride + d.width
    if holds(x, x_row, x_column, height, width):
        group.cells = cell(x, image, x_row, x_column)
        group.row = x.row
    else:
        cut(x, image, x_row, x_column, height, width, x.channels, copy, x.channels)
        group.cells = copy
        group.row = width * x.channels
    return group


cdef void merge_rows(const Direct* d, Field* x, Field* y) noexcept nogil:
    """See images whose windows are their cells as one row."""
    if (
        d.height == d.width == d.stride == 1 and d.first_row == d.first_column == 0
        and x.columns == y.columns and x.rows == y.rows
        and x.row == x.columns * x.channels and y.row == y.columns * y.channels
    ):
        x.columns = y.columns = x.columns * x.rows
        x.rows = y.rows = 1
        x.row = x.columns * x.channels
        y.row = y.columns * y.channels


cdef void direct_forward(
    const Direct* d, Field x, Field y, Py_ssize_t filters, const float* panels, float* copy,
    const Epilogue* after, Prologue* before, const Field* dy,
) noexcept nogil:
    """The first `filters` of y; `copy` holds a group's windows."""
    cdef Segment segments[16]
    cdef Epilogue finish = after[0]
    cdef Rows group
    cdef Py_ssize_t n, row, column, rows, columns, first, i, ky
    cdef Py_ssize_t run = d.width * x.channels
    cdef const float* panel
    if before == NULL:
        merge_rows(d, &x, &y)
    for n in range(y.images):
        row = 0
        while row < y.rows:
            rows = min(max(1, GROUP // y.columns), y.rows - row)
            derive_until(before, dy, n, d.first_row + row + rows - 1 + d.height)
            for column from 0 <= column < y.columns by GROUP:
                columns = min(GROUP, y.columns - column)
                group = window_rows(d, &x, n, row, column, rows, columns, copy)
                for first from 0 <= first < filters by simd.panel:
                    panel = panels + first * d.height * run
                    if after.biases != NULL:
                        finish.biases = after.biases + first
                    for i in range(rows):
                        for ky in range(d.height):
                            segments[ky].a = group.cells + (i * d.stride + ky) * group.row
                            segments[ky].b = panel + ky * run * simd.panel
                            segments[ky].length = run
                        simd.rows_product(
                            columns, min(simd.panel, filters - first), segments, d.height,
                            d.stride * x.channels, simd.panel,
                            cell(&y, n, row + i, column) + first, y.channels, &finish)
            row += rows
    if before != NULL:
        derive_until(before, dy, dy.images, 0)


cdef void direct_backward_weights(
    const Direct* d, Field x, Field dy, float* dweights, bint accumulate, float* copy,
    float* panels, Prologue* before,
) noexcept nogil:
    """`panels` holds a group of dy in panels of channels; a row is then one segment."""
    cdef Segment segments[WEIGHT_GROUP]
    cdef Epilogue sum
    cdef Rows group
    cdef Py_ssize_t n, row, column, rows, columns, first, i, ky, pixels
    cdef Py_ssize_t run = d.width * x.channels
    sum.biases = NULL
    sum.slope = 1
    sum.add = accumulate
    if before == NULL:
        merge_rows(d, &x, &dy)
    for n in range(dy.images):
        row = 0
        while row < dy.rows:
            rows = min(max(1, WEIGHT_GROUP // dy.columns), dy.rows - row)
            derive_until(before, &dy, n, row + rows)
            for column from 0 <= column < dy.columns by WEIGHT_GROUP:
                columns = min(WEIGHT_GROUP, dy.columns - column)
                pixels = rows * columns
                group = window_rows(d, &x, n, row, column, rows, columns, copy)
                gather_panels(&dy, n, row, column, rows, columns, panels)
                for first from 0 <= first < dy.channels by simd.panel:
                    for ky in range(d.height):
                        for i in range(rows):
                            segments[i].a = group.cells + (i * d.stride + ky) * group.row
                            segments[i].b = (
                                panels + first * pixels + i * columns * simd.panel)
                            segments[i].length = columns
                        simd.columns_product(
                            run, min(simd.panel, dy.channels - first), segments, rows,
                            d.stride * x.channels, simd.panel,
                            dweights + ky * run * dy.channels + first, dy.channels, &sum)
                sum.add = True
            row += rows


cdef void gather_panels(
    const Field* dy, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns, float* panels,
) noexcept nogil:
    """A group of pixels as panels (pixels, panel) of channels."""
    cdef Py_ssize_t first, count, i, j
    cdef const float* source
    for first from 0 <= first < dy.channels by simd.panel:
        count = min(simd.panel, dy.channels - first)
        for i in range(rows):
            source = cell(dy, image, row + i, column) + first
            for j in range(columns):
                memcpy(panels, source + j * dy.channels, count * sizeof(float))
                if count < simd.panel:
                    memset(panels + count, 0, (simd.panel - count) * sizeof(float))
                panels += simd.panel


cdef Py_ssize_t copy_elements(const Direct* d, Py_ssize_t channels,
                              Py_ssize_t group) noexcept nogil:
    """Elements of the largest copy of a group's windows, be it one row or one column."""
    cdef Py_ssize_t reach = (group - 1) * d.stride
    return up(max((reach + d.height) * d.width, d.height * (reach + d.width)) * channels, 16)


cdef Py_ssize_t panel_elements(const Direct* d, Py_ssize_t channels,
                               Py_ssize_t filters) noexcept nogil:
    cdef Py_ssize_t rows = d.height * d.width * channels
    return rows * up(filters_at_once(rows, filters), 32)


def direct_elements(Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels,
                    Py_ssize_t filters, Py_ssize_t stride):
    """Length of the workspace that serves all three operations."""
    cdef Direct d = Direct(height, width, stride, 0, 0)
    cdef Py_ssize_t deeper = max(channels, filters)
    return 32 + max(
        panel_elements(&d, channels, filters) + copy_elements(&d, channels, GROUP),
        panel_elements(&d, filters, channels) + copy_elements(&d, filters, GROUP),
        WEIGHT_GROUP * up(deeper, 32) + copy_elements(&d, channels, WEIGHT_GROUP))
