# Products of windows in place: a window's row is one run of kernel width times channels, and
# the runs of neighbouring pixels overlap. Nothing but the field's edge is copied.

cdef struct Direct:
    Py_ssize_t height, width  # of the kernel
    Py_ssize_t stride
    Py_ssize_t first_row, first_column  # of the first window, in the field


# Pixels that meet one panel of weights before the next one comes: more where channels are few,
# whose rows would be copied with their neighbours as often as not.
cdef enum:
    GROUP = 168
    GROUP_ELEMENTS = 49152
    MOST_PIXELS = 2048
    WEIGHT_GROUP = 252


cdef Py_ssize_t group_pixels(Py_ssize_t channels) noexcept nogil:
    return min(max(GROUP, GROUP_ELEMENTS // channels), MOST_PIXELS)


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
    cdef Py_ssize_t first
    for first from 0 <= first < columns by simd.panel:
        simd.pack(source + first, step, rows, min(simd.panel, columns - first),
                  panels + first * rows)


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
            simd.transpose(weights + ((taps - 1 - tap) * channels + first) * filters, filters,
                           min(simd.panel, count - first), filters,
                           panels + (first * taps + tap * simd.panel) * filters, simd.panel)


# Columns at an edge whose windows are copied with the field's zeros: one block of the tallest
# product kernel. The others' are used in place, where rows are wide enough to be cut. The
# gradient's products run along a row, and a short one costs them more than copies.
cdef enum:
    EDGE = 14
    WIDE_ENOUGH = 42
    WIDE = 126


cdef Py_ssize_t piece(
    const Direct* d, const Field* x, Py_ssize_t column, Py_ssize_t columns, Py_ssize_t most,
    Py_ssize_t wide,
) noexcept nogil:
    """So many columns from this one on, of all `columns`, are treated alike."""
    cdef Py_ssize_t inside = (x.columns - d.width - d.first_column) // d.stride + 1
    if columns > wide:
        if column == 0 and d.first_column < 0:
            return EDGE
        if column + EDGE < columns and inside < columns:
            columns -= EDGE
    return min(most, columns - column)


cdef struct Rows:
    # A group of rows of windows: where they lie, whether in the field or in a copy.
    const float* cells
    Py_ssize_t row


cdef Rows window_rows(
    const Direct* d, const Field* x, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns, float* copy,
) noexcept nogil:
    """Rows that lie outside of the field may hold anything."""
    cdef Rows group
    cdef Py_ssize_t x_row = d.first_row + row * d.stride
    cdef Py_ssize_t x_column = d.first_column + column * d.stride
    cdef Py_ssize_t height = (rows - 1) * d.stride + d.height
    cdef Py_ssize_t width = (columns - 1) * d.stride + d.width
    if x_column >= 0 and x_column + width <= x.columns:
        group.cells = x.cells + image * x.image + x_row * x.row + x_column * x.channels
        group.row = x.row
    else:
        cut(x, image, x_row, x_column, height, width, x.channels, copy, x.channels)
        group.cells = copy
        group.row = width * x.channels
    return group


cdef inline bint has_row(const Direct* d, const Field* x, Py_ssize_t row,
                         Py_ssize_t ky) noexcept nogil:
    """Whether this row of a row of windows is in the field; it is zero elsewhere."""
    return 0 <= d.first_row + row * d.stride + ky < x.rows


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


cdef Py_ssize_t stretches(Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t depth) noexcept nogil:
    """About how many a product of this size has."""
    return (rows + EDGE - 1) // EDGE * ((columns + simd.panel - 1) // simd.panel) * depth // STRETCH


cdef Ahead after_group(
    const Field* f, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows,
    Py_ssize_t columns, Py_ssize_t work,
) noexcept nogil:
    """What follows a group of cells: as many rows below, or columns beside a single row."""
    cdef Py_ssize_t first = max(0, column)
    if f.rows == 1:
        first += columns
        columns = min(columns, f.columns - first)
    else:
        row += rows
        rows = min(rows, f.rows - row)
        columns = min(columns, f.columns - first)
    return fetched(cell(f, image, row, first), columns * f.channels, f.row, rows, work)


cdef Ahead after_windows(
    const Direct* d, const Field* x, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t work,
) noexcept nogil:
    """What the next group's windows hold beyond this one's."""
    return after_group(x, image, d.first_row + (row - 1) * d.stride + d.height,
                       d.first_column + column * d.stride, rows * d.stride, columns * d.stride,
                       work)


cdef void direct_forward(
    const Direct* d, Field x, Field y, Py_ssize_t filters, const float* panels, float* copy,
    const Epilogue* after, Prologue* before, const Field* dy,
) noexcept nogil:
    """The first `filters` of y; `copy` holds a group's windows."""
    cdef Segment segments[16]
    cdef Epilogue finish = after[0]
    cdef Ahead ahead
    cdef Rows group
    cdef Py_ssize_t n, row, column, rows, columns, first, i, ky, count
    cdef Py_ssize_t run = d.width * x.channels, most = group_pixels(x.channels)
    cdef const float* panel
    if before == NULL:
        merge_rows(d, &x, &y)
    for n in range(y.images):
        row = 0
        while row < y.rows:
            rows = min(max(1, most // y.columns), y.rows - row)
            derive_until(before, dy, n, d.first_row + row + rows - 1 + d.height)
            column = 0
            while column < y.columns:
                columns = piece(d, &x, column, y.columns, most, WIDE_ENOUGH)
                group = window_rows(d, &x, n, row, column, rows, columns, copy)
                ahead = after_windows(d, &x, n, row, column, rows, columns,
                                      stretches(rows * columns, filters, d.height * run))
                for first from 0 <= first < filters by simd.panel:
                    panel = panels + first * d.height * run
                    if after.biases != NULL:
                        finish.biases = after.biases + first
                    for i in range(rows):
                        count = 0
                        for ky in range(d.height):
                            if not has_row(d, &x, row + i, ky):
                                continue
                            segments[count].a = group.cells + (i * d.stride + ky) * group.row
                            segments[count].b = panel + ky * run * simd.panel
                            segments[count].length = run
                            count += 1
                        simd.rows_product(
                            columns, min(simd.panel, filters - first), segments, count,
                            d.stride * x.channels, simd.panel,
                            cell(&y, n, row + i, column) + first, y.channels, &finish, &ahead)
                column += columns
            row += rows
    if before != NULL:
        derive_until(before, dy, dy.images, 0)


cdef void direct_backward_weights(
    const Direct* d, Field x, Field dy, float* dweights, bint accumulate, float* copy,
    float* panels, Prologue* before,
) noexcept nogil:
    """`panels` holds a group of dy in panels of channels; a row is then one segment."""
    cdef Py_ssize_t n, row, column, rows, columns
    if before == NULL:
        merge_rows(d, &x, &dy)
    for n in range(dy.images):
        column = 0
        while column < dy.columns:
            columns = piece(d, &x, column, dy.columns, WEIGHT_GROUP, WIDE)
            row = 0
            while row < dy.rows:
                rows = min(max(1, WEIGHT_GROUP // columns), dy.rows - row)
                derive_until(before, &dy, n, row + rows)
                weigh_group(d, &x, &dy, n, row, column, rows, columns, dweights, accumulate,
                            copy, panels)
                accumulate = True
                row += rows
            column += columns


cdef void weigh_group(
    const Direct* d, const Field* x, const Field* dy, Py_ssize_t image, Py_ssize_t row,
    Py_ssize_t column, Py_ssize_t rows, Py_ssize_t columns, float* dweights, bint add,
    float* copy, float* panels,
) noexcept nogil:
    """What a group of cells gives to the gradient."""
    cdef Segment segments[WEIGHT_GROUP]
    cdef Epilogue sum
    cdef Ahead ahead[2]
    cdef Rows group = window_rows(d, x, image, row, column, rows, columns, copy)
    cdef Py_ssize_t run = d.width * x.channels, pixels = rows * columns
    cdef Py_ssize_t work = stretches(d.height * run, dy.channels, pixels) // 2
    cdef Py_ssize_t first, i, ky, count
    sum.biases = NULL
    sum.slope = 1
    sum.add = add
    gather_panels(dy, image, row, column, rows, columns, panels)
    ahead[0] = after_group(dy, image, row, column, rows, columns, work)
    ahead[1] = after_windows(d, x, image, row, column, rows, columns, work)
    for first from 0 <= first < dy.channels by simd.panel:
        for ky in range(d.height):
            count = 0
            for i in range(rows):
                if has_row(d, x, row + i, ky):
                    segments[count].a = group.cells + (i * d.stride + ky) * group.row
                    segments[count].b = panels + first * pixels + i * columns * simd.panel
                    segments[count].length = columns
                    count += 1
            simd.columns_product(
                run, min(simd.panel, dy.channels - first), segments, count,
                d.stride * x.channels, simd.panel, dweights + ky * run * dy.channels + first,
                dy.channels, &sum, &ahead[(first // simd.panel + ky) % 2])


cdef void gather_panels(
    const Field* dy, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns, float* panels,
) noexcept nogil:
    """A group of pixels as panels (pixels, panel) of channels."""
    cdef Py_ssize_t first, i
    for first from 0 <= first < dy.channels by simd.panel:
        for i in range(rows):
            simd.pack(cell(dy, image, row + i, column) + first, dy.channels, columns,
                      min(simd.panel, dy.channels - first), panels)
            panels += columns * simd.panel


cdef Py_ssize_t copy_elements(const Direct* d, Py_ssize_t channels, Py_ssize_t group,
                              Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """Elements of the largest copy of a group's windows: one row, one column, a square where
    the stride leaves cells between them, or all of these rows and columns."""
    cdef Py_ssize_t reach = (group - 1) * d.stride
    cdef Py_ssize_t cells = max((reach + d.height) * d.width, d.height * (reach + d.width),
                                group * d.stride * d.stride)
    cdef Py_ssize_t height = (rows - 1) * d.stride + d.height
    cdef Py_ssize_t width = (columns - 1) * d.stride + d.width
    return up(min(cells, height * width) * channels, 16)


cdef Py_ssize_t panel_elements(const Direct* d, Py_ssize_t channels,
                               Py_ssize_t filters) noexcept nogil:
    cdef Py_ssize_t rows = d.height * d.width * channels
    return rows * up(filters_at_once(rows, filters), 32)


def direct_elements(Py_ssize_t height, Py_ssize_t width, Py_ssize_t channels,
                    Py_ssize_t filters, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t columns):
    """Length of the workspace that serves all three operations on so many output cells."""
    cdef Direct d = Direct(height, width, stride, 0, 0)
    cdef Py_ssize_t deeper = max(channels, filters)
    return 32 + max(
        panel_elements(&d, channels, filters)
        + copy_elements(&d, channels, group_pixels(channels), rows, columns),
        panel_elements(&d, filters, channels)
        + copy_elements(&d, filters, group_pixels(filters), rows + height - 1,
                        columns + width - 1),
        WEIGHT_GROUP * up(deeper, 32)
        + copy_elements(&d, channels, WEIGHT_GROUP, rows, columns))
