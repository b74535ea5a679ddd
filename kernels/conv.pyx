"""Cross-correlation of tiles: bounded im2row panels and one BLAS call per run of pixels.

The pixels of an output box are numbered image by image, row by row. A panel holds the
patches of consecutive pixels as rows of (ky, kx, channel); it meets the weights, seen as
a (kh kw C, K) matrix, in as few products as the layout of the output allows. Convolutions in
groups do so group by group: `channels` and `filters` are then one group's.
"""

from libc.string cimport memcpy, memset

include "blas.pxi"


cdef struct Layout:
    # Elements from one image, row or pixel of an output box to the next.
    Py_ssize_t image
    Py_ssize_t row
    Py_ssize_t pixel


cdef struct Problem:
    # The output box, the tile of the input, and the kernel between them.
    Py_ssize_t images, rows, columns
    Py_ssize_t height, width, channels
    Py_ssize_t depth, breadth  # channels and filters of all groups
    Py_ssize_t groups
    Py_ssize_t first_row, first_column  # of the first window, in the input's tile
    Py_ssize_t kernel_height, kernel_width, stride
    Py_ssize_t filters
    Py_ssize_t patch
    Py_ssize_t pixels
    Layout output
    # Where every patch is one run in the input's tile, no panel is needed.
    bint in_place
    Layout input


cdef Layout merged(Layout layout, Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    """The same places with the distances of dimensions of one cell made irrelevant."""
    if rows == 1:
        layout.row = layout.image
    if columns == 1:
        layout.pixel = layout.row
    return layout


cdef Py_ssize_t common_run(Problem* p, Layout a, Layout b) noexcept nogil:
    """How many consecutive pixels lie at equal distances in both layouts."""
    cdef Py_ssize_t run = p.columns
    if a.row != p.columns * a.pixel or b.row != p.columns * b.pixel:
        return run
    run *= p.rows
    if a.image != p.rows * a.row or b.image != p.rows * b.row:
        return run
    return run * p.images


cdef Py_ssize_t place(Problem* p, Layout layout, Py_ssize_t pixel) noexcept nogil:
    """Elements from the first pixel of the box to this one."""
    cdef Py_ssize_t line = pixel // p.columns
    return (
        line // p.rows * layout.image
        + line % p.rows * layout.row
        + pixel % p.columns * layout.pixel
    )


cdef Layout panel_layout(Problem* p) noexcept nogil:
    cdef Layout layout
    layout.pixel = p.patch
    layout.row = p.columns * layout.pixel
    layout.image = p.rows * layout.row
    return layout


cdef struct Span:
    # The part of a window's row that lies in the tile: cells before it, and its own.
    Py_ssize_t before
    Py_ssize_t inside


cdef inline Span span(Py_ssize_t first, Py_ssize_t size, Py_ssize_t width) noexcept nogil:
    cdef Span cells
    cells.before = min(size, -first if first < 0 else 0)
    cells.inside = max(0, min(size, width - first) - cells.before)
    return cells


cdef void gather(
    Problem* p, const real* x, Py_ssize_t first, Py_ssize_t count, real* panel
) noexcept nogil:
    """im2row: the patches of `count` pixels; cells outside the tile are zero."""
    cdef Py_ssize_t column = first % p.columns
    cdef Py_ssize_t row = first // p.columns % p.rows
    cdef Py_ssize_t image = first // p.columns // p.rows
    cdef Py_ssize_t channels = p.channels, size = p.kernel_width
    cdef Py_ssize_t i, j, ky, x_row, x_column, after
    cdef const real* source
    cdef Span cells
    for i in range(count):
        x_column = p.first_column + column * p.stride
        cells = span(x_column, size, p.width)
        after = size - cells.before - cells.inside
        for ky in range(p.kernel_height):
            x_row = p.first_row + row * p.stride + ky
            if x_row < 0 or x_row >= p.height:
                memset(panel, 0, size * channels * sizeof(real))
            else:
                if cells.before:
                    memset(panel, 0, cells.before * channels * sizeof(real))
                source = (
                    x + ((image * p.height + x_row) * p.width + x_column + cells.before) * p.depth
                )
                if p.groups == 1:
                    memcpy(panel + cells.before * channels, source,
                           cells.inside * channels * sizeof(real))
                else:
                    for j in range(cells.inside):
                        memcpy(panel + (cells.before + j) * channels, source + j * p.depth,
                               channels * sizeof(real))
                if after:
                    memset(panel + (cells.before + cells.inside) * channels, 0,
                           after * channels * sizeof(real))
            panel += size * channels
        column += 1
        if column == p.columns:
            column = 0
            row += 1
            if row == p.rows:
                row = 0
                image += 1


cdef void scatter_add(
    Problem* p, real* x, Py_ssize_t first, Py_ssize_t count, const real* panel
) noexcept nogil:
    """The adjoint of `gather`: what falls outside the tile is dropped."""
    cdef Py_ssize_t column = first % p.columns
    cdef Py_ssize_t row = first // p.columns % p.rows
    cdef Py_ssize_t image = first // p.columns // p.rows
    cdef Py_ssize_t channels = p.channels, size = p.kernel_width
    cdef Py_ssize_t i, j, k, ky, x_row, x_column
    cdef Span cells
    cdef real* target
    cdef const real* source
    for i in range(count):
        x_column = p.first_column + column * p.stride
        cells = span(x_column, size, p.width)
        for ky in range(p.kernel_height):
            x_row = p.first_row + row * p.stride + ky
            if 0 <= x_row < p.height:
                target = (
                    x + ((image * p.height + x_row) * p.width + x_column + cells.before) * p.depth
                )
                source = panel + cells.before * channels
                if p.groups == 1:
                    for j in range(cells.inside * channels):
                        target[j] += source[j]
                else:
                    for j in range(cells.inside):
                        for k in range(channels):
                            target[j * p.depth + k] += source[j * channels + k]
            panel += size * channels
        column += 1
        if column == p.columns:
            column = 0
            row += 1
            if row == p.rows:
                row = 0
                image += 1


cdef Problem problem(
    const Py_ssize_t* x, const Py_ssize_t* weights, const Py_ssize_t* y,
    Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t first_row, Py_ssize_t first_column,
    Py_ssize_t stride, Py_ssize_t padding,
) noexcept nogil:
    """`x`, `weights` and `y` are the shapes of the arrays."""
    cdef Problem p
    p.images = x[0]
    p.height = x[1]
    p.width = x[2]
    p.depth = x[3]
    p.channels = weights[2]
    p.groups = p.depth // p.channels
    p.kernel_height = weights[0]
    p.kernel_width = weights[1]
    p.breadth = weights[3]
    p.filters = p.breadth // p.groups
    p.rows = rows
    p.columns = columns
    p.first_row = first_row
    p.first_column = first_column
    p.stride = stride
    p.patch = p.kernel_height * p.kernel_width * p.channels
    p.pixels = p.images * rows * columns
    p.output.pixel = p.breadth
    p.output.row = y[2] * p.breadth
    p.output.image = y[1] * p.output.row
    p.output = merged(p.output, rows, columns)
    p.input.pixel = stride * p.depth
    p.input.row = stride * p.width * p.depth
    p.input.image = p.height * p.width * p.depth
    p.input = merged(p.input, rows, columns)
    p.in_place = padding == 0 and (
        p.kernel_height == p.kernel_width == 1
        or (rows == columns == 1 and p.kernel_width == p.width and p.groups == 1)
    )
    return p


cdef Py_ssize_t panel_step(Problem* p, Py_ssize_t run, Py_ssize_t elements) noexcept nogil:
    """Pixels of one panel: whole rows where they fit; in place, one run."""
    if p.in_place:
        return run
    cdef Py_ssize_t pixels = elements // p.patch
    return pixels - pixels % p.columns if pixels > p.columns else pixels


cdef Py_ssize_t start(Problem* p) noexcept nogil:
    """Elements from the tile's first cell to what patches are counted from.

    In place that is the first window; `gather` and `scatter_add` count from the tile.
    """
    if not p.in_place:
        return 0
    return (p.first_row * p.width + p.first_column) * p.depth


cdef void forward_loop(
    Problem* p, const real* x, const real* weights, real* y,
    real* workspace, Py_ssize_t elements,
) noexcept nogil:
    cdef Layout patches = p.input if p.in_place else panel_layout(p)
    cdef Py_ssize_t run = common_run(p, patches, p.output)
    cdef Py_ssize_t step = panel_step(p, run, elements)
    cdef Py_ssize_t first = 0, count, i, length
    cdef const real* panel
    while first < p.pixels:
        count = min(step, p.pixels - first)
        if p.in_place:
            panel = x + place(p, patches, first)
        else:
            gather(p, x, first, count, workspace)
            panel = workspace
        i = 0
        while i < count:
            length = min(count - i, run - (first + i) % run)
            gemm(False, False, length, p.filters, p.patch,
                 panel + i * patches.pixel, patches.pixel, weights, p.breadth,
                 <real>0, y + place(p, p.output, first + i), p.output.pixel)
            i += length
        first += count


cdef void backward_input_loop(
    Problem* p, const real* dy, const real* weights, real* dx,
    real* workspace, Py_ssize_t elements,
) noexcept nogil:
    cdef Layout patches = p.input if p.in_place else panel_layout(p)
    cdef Py_ssize_t run = common_run(p, patches, p.output)
    cdef Py_ssize_t step = panel_step(p, run, elements)
    cdef Py_ssize_t first = 0, count, i, length
    cdef real* panel
    while first < p.pixels:
        count = min(step, p.pixels - first)
        panel = dx + place(p, patches, first) if p.in_place else workspace
        i = 0
        while i < count:
            length = min(count - i, run - (first + i) % run)
            gemm(False, True, length, p.patch, p.filters,
                 dy + place(p, p.output, first + i), p.output.pixel, weights, p.breadth,
                 <real>(1 if p.in_place else 0), panel + i * patches.pixel, patches.pixel)
            i += length
        if not p.in_place:
            scatter_add(p, dx, first, count, workspace)
        first += count


cdef void backward_weights_loop(
    Problem* p, const real* x, const real* dy, real* dweights,
    real* workspace, Py_ssize_t elements,
) noexcept nogil:
    cdef Layout patches = p.input if p.in_place else panel_layout(p)
    cdef Py_ssize_t run = common_run(p, patches, p.output)
    cdef Py_ssize_t step = panel_step(p, run, elements)
    cdef Py_ssize_t first = 0, count, i, length
    cdef const real* panel
    while first < p.pixels:
        count = min(step, p.pixels - first)
        if p.in_place:
            panel = x + place(p, patches, first)
        else:
            gather(p, x, first, count, workspace)
            panel = workspace
        i = 0
        while i < count:
            length = min(count - i, run - (first + i) % run)
            gemm(True, False, p.patch, p.filters, length,
                 panel + i * patches.pixel, patches.pixel,
                 dy + place(p, p.output, first + i), p.output.pixel,
                 <real>1, dweights, p.breadth)
            i += length
        first += count


def forward(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] weights,
    real[:, :, :, ::1] y, real[::1] workspace,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t stride, Py_ssize_t padding,
):
    cdef Problem p = problem(x.shape, weights.shape, y.shape, rows, columns,
                             x_row, x_column, stride, padding)
    cdef const real* source = &x[0, 0, 0, 0] + start(&p)
    cdef Py_ssize_t group
    with nogil:
        for group in range(p.groups):
            forward_loop(&p, source + group * p.channels,
                         &weights[0, 0, 0, group * p.filters],
                         &y[0, y_row, y_column, group * p.filters],
                         &workspace[0], workspace.shape[0])


def backward_input(
    const real[:, :, :, ::1] dy, const real[:, :, :, ::1] weights,
    real[:, :, :, ::1] dx, real[::1] workspace,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t stride, Py_ssize_t padding,
):
    cdef Problem p = problem(dx.shape, weights.shape, dy.shape, rows, columns,
                             x_row, x_column, stride, padding)
    cdef real* target = &dx[0, 0, 0, 0] + start(&p)
    cdef Py_ssize_t group
    with nogil:
        for group in range(p.groups):
            backward_input_loop(&p, &dy[0, y_row, y_column, group * p.filters],
                                &weights[0, 0, 0, group * p.filters],
                                target + group * p.channels,
                                &workspace[0], workspace.shape[0])


def backward_weights(
    const real[:, :, :, ::1] x, const real[:, :, :, ::1] dy,
    real[:, :, :, ::1] dweights, real[::1] workspace,
    Py_ssize_t y_row, Py_ssize_t y_column, Py_ssize_t rows, Py_ssize_t columns,
    Py_ssize_t x_row, Py_ssize_t x_column, Py_ssize_t stride, Py_ssize_t padding,
):
    cdef Problem p = problem(x.shape, dweights.shape, dy.shape, rows, columns,
                             x_row, x_column, stride, padding)
    cdef const real* source = &x[0, 0, 0, 0] + start(&p)
    cdef Py_ssize_t group
    with nogil:
        for group in range(p.groups):
            backward_weights_loop(&p, source + group * p.channels,
                                  &dy[0, y_row, y_column, group * p.filters],
                                  &dweights[0, 0, 0, group * p.filters],
                                  &workspace[0], workspace.shape[0])
