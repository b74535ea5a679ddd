# The transforms of Winograd's output tiles, and of what they are computed from.

cdef inline bint is_whole(const Winograd* g, const Spot* at) noexcept nogil:
    return at.height == g.cells and at.width == g.cells


cdef void transform_tiles(
    const Winograd* g, int which, const Field* x, Py_ssize_t first, Py_ssize_t count,
    Py_ssize_t channels, float* patch, float* target, Py_ssize_t apart, Steps to,
) noexcept nogil:
    """The input's map of what tiles are computed from, or the delta's of their own cells.

    Tiles are so many elements `apart` in the target. A loop is given the numbers of its steps, not
    a copy of them: read back in wider words, it would wait for all outputs of the tile before.
    """
    cdef TransformLoop loop = transform(g, which)
    cdef Py_ssize_t depth = up(channels, simd.vector), vectors = depth // simd.vector
    cdef Py_ssize_t reach = 0, first_row = 0, first_column = 0
    cdef Py_ssize_t t, row, column, height, width, line, pixel
    cdef const float* source
    cdef Spot at
    if which == MAP_INPUT:
        reach = g.side - g.cells
        first_row = g.first_row
        first_column = g.first_column
    for t in range(count):
        at = spot(&g.tiling, first + t)
        row = first_row + at.row
        column = first_column + at.column
        height = at.height + reach
        width = at.width + reach
        if depth == channels and holds(x, row, column, height, width):
            source = cell(x, at.image, row, column)
            line = x.row
            pixel = x.channels
        else:
            cut(x, at.image, row, column, height, width, channels, patch, depth)
            source = patch
            line = width * depth
            pixel = depth
        if is_whole(g, &at):
            loop(source, steps(line, pixel), target, to, vectors, NULL)
        else:
            simd.edges[which](at.height, at.width, source, steps(line, pixel), target, to,
                              vectors, NULL)
        target += apart


cdef void transform_x(const Winograd* g, int which, const Field* x, Py_ssize_t first,
                      Py_ssize_t count) noexcept nogil:
    """What weights are multiplied by: inputs, or deltas where their gradient is computed."""
    transform_tiles(g, which, x, first, count, g.channels, g.x_patch, g.x, g.x_row,
                    panels(g, g.x_place, g.x_panel, simd.piece))


cdef void transform_output(
    const Winograd* g, const Field* y, Py_ssize_t first, Py_ssize_t count,
    const Epilogue* after,
) noexcept nogil:
    cdef TransformLoop loop = transform(g, MAP_OUTPUT)
    cdef Py_ssize_t depth = up(g.filters, simd.vector)
    cdef Steps source = panels(g, g.y_place, g.y_panel, simd.panel)
    cdef Py_ssize_t t, line, pixel
    cdef float* target
    cdef bint held
    cdef Spot at
    for t in range(count):
        at = spot(&g.tiling, first + t)
        held = depth == g.filters and holds(y, at.row, at.column, at.height, at.width)
        if held:
            target = cell(y, at.image, at.row, at.column)
            line = y.row
            pixel = y.channels
        else:
            target = g.y_patch
            line = at.width * depth
            pixel = depth
            if after.add:
                cut(y, at.image, at.row, at.column, at.height, at.width, g.filters, target,
                    depth)
        if is_whole(g, &at):
            loop(g.y + t * g.y_row, source, target, steps(line, pixel), depth // simd.vector,
                 after)
        else:
            simd.edges[MAP_OUTPUT](at.height, at.width, g.y + t * g.y_row, source, target,
                                   steps(line, pixel), depth // simd.vector, after)
        if not held:
            paste(y, &at, target, g.filters, depth)


cdef void transform_delta(
    const Winograd* g, const Field* dy, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """To panels (place, panel, tile, panel's filters), or as `g.y_panel` has them."""
    if up(g.filters, simd.vector) % simd.panel:
        memset(g.y, 0, (up(g.filters, simd.panel) // simd.panel * g.y_panel if g.y_panel
                        else g.places * g.y_place) * sizeof(float))
    transform_tiles(g, MAP_DELTA, dy, first, count, g.filters, g.y_patch, g.y, simd.panel,
                    panels(g, g.y_place, g.y_panel or count * simd.panel, simd.panel))
