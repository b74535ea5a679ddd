# Winograd's algorithm for 3x3 kernels at stride 1, a block of output tiles at a time: input
# transform, one product for each of the transform's places, output transform.

cdef struct Winograd:
    Py_ssize_t cells, side, places  # of an output tile, of its transform, side squared
    Py_ssize_t channels, filters  # filters of one chunk
    Py_ssize_t tiles
    Tiling tiling
    Py_ssize_t block  # tiles of a block
    Py_ssize_t first_row, first_column
    # Elements from place to place in the transforms of x, of y and of the weights; and from
    # row to row. Odd numbers of cache lines: the places' streams must not share cache sets.
    Py_ssize_t x_place, y_place, w_place
    Py_ssize_t x_row, y_row
    # From panel to panel of x, each of a piece's channels, and of y; zero where they have none.
    Py_ssize_t x_panel, y_panel
    float* x
    float* y
    float* w
    float* copy  # of weights, transposed
    float* x_patch
    float* y_patch
    float* biases


# Weights are transformed piece by piece: a transposed piece takes little more than L1, and a
# transformed one a part of L2. `AHEAD` channels are on their way from memory.
cdef enum:
    PIECE_CHANNELS = 128
    PIECE_FILTERS = 32
    AHEAD = 6


cdef Py_ssize_t set_up(
    Winograd* g, Py_ssize_t cells, Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t block,
    Py_ssize_t depth, Py_ssize_t piece, float* workspace,
) noexcept nogil:
    """Lay out the workspace; so many channels of a `piece` of filters are transformed at once.

    Returns its length.
    """
    cdef float* p = aligned(workspace)
    g.cells = cells
    g.side = cells + 2
    g.places = g.side * g.side
    g.channels = channels
    g.filters = filters
    g.block = block
    g.x_panel = g.y_panel = 0
    g.x_row = up(channels, 32) + 16
    g.y_row = up(filters, 32) + 16
    g.x_place = up(block * g.x_row, 1024) + 80
    g.y_place = up(block * g.y_row, 1024) + 80
    g.w_place = up(depth * up(piece, 32), 1024) + 80
    g.x_patch = p
    p += g.places * up(channels, 32)
    g.y_patch = p
    p += g.places * up(filters, 32)
    g.biases = p
    p += up(filters, 32)
    g.w = p
    p += g.places * g.w_place
    g.copy = p
    # Between the taps of a piece is a cache line more: its streams must not share cache sets.
    p += 9 * (min(depth, PIECE_CHANNELS) * PIECE_FILTERS + 16)
    g.x = p
    p += g.places * g.x_place
    g.y = p
    p += g.places * g.y_place
    return (p - workspace) + 16


cdef inline TransformLoop transform(const Winograd* g, int which) noexcept nogil:
    return simd.transforms[1 if g.cells == 4 else 0][which]


cdef inline Steps steps(Py_ssize_t row, Py_ssize_t column) noexcept nogil:
    cdef Steps s
    s.row = row
    s.column = column
    s.pair = 2 * simd.vector
    s.odd = simd.vector
    return s


cdef inline Steps places(const Winograd* g, Py_ssize_t place) noexcept nogil:
    """Between the places of a transform."""
    return steps(g.side * place, place)


cdef inline Steps panels(const Winograd* g, Py_ssize_t place, Py_ssize_t panel,
                         Py_ssize_t wide) noexcept nogil:
    """The same where panels of so many channels are `panel` apart, or none if that is zero."""
    cdef Steps s = places(g, place)
    if panel and wide == simd.vector:
        s.odd = panel
        s.pair = 2 * panel
    elif panel:
        s.pair = panel
    return s


cdef Py_ssize_t deal_tiles(Winograd* g, Py_ssize_t cells, const Field* y,
                           Py_ssize_t block) noexcept nogil:
    """Cut into tiles, and deal them out to blocks; returns how many each has."""
    g.tiling = tiling(cells, y, cells == 4)
    g.tiles = g.tiling.spans.tiles
    return dealt(g.tiles, block)


cdef void derive_for(Winograd* g, Prologue* before, const Field* dy, Py_ssize_t last,
                     Py_ssize_t reach) noexcept nogil:
    """What the tiles up to the last one of a block are computed from."""
    cdef Spot at = spot(&g.tiling, last)
    if g.tiling.rest_rows or g.tiling.rest_columns:
        # Those at an edge are together, wherever they lie.
        derive_until(before, dy, dy.images, 0)
    else:
        derive_until(before, dy, at.image, max(0, min(dy.rows, at.row + reach)))


cdef void winograd_forward(
    Winograd* g, const Field* x, const Field* y, const Epilogue* after, Prologue* before
) noexcept nogil:
    """One chunk of filters, whose weights are transformed."""
    cdef Py_ssize_t first, count
    for first from 0 <= first < g.tiles by g.block:
        count = min(g.block, g.tiles - first)
        derive_for(g, before, x, first + count - 1, g.first_row + g.side)
        transform_x(g, MAP_INPUT, x, first, count)
        multiply(g, block_spans(&g.tiling.spans, first, count), g.filters, g.y, False)
        transform_output(g, y, first, count, after)
    if before != NULL:
        derive_until(before, x, x.images, 0)


cdef void multiply(
    const Winograd* g, Spans spans, Py_ssize_t filters, float* y, bint add
) noexcept nogil:
    """Place by place, the transforms of x and of so many filters."""
    cdef Py_ssize_t place, column
    cdef Span at
    cdef Segment segment
    cdef Epilogue store
    store.biases = NULL
    store.slope = 1
    store.add = add
    segment.length = g.channels
    for place in range(g.places):
        at = span(&spans, place // g.side, place % g.side)
        segment.a = g.x + place * g.x_place + at.first * g.x_row
        for column from 0 <= column < filters by simd.panel:
            segment.b = g.w + place * g.w_place + column * g.channels
            simd.rows_product(at.count, simd.panel, &segment, 1, g.x_row, simd.panel,
                              y + place * g.y_place + at.first * g.y_row + column, g.y_row,
                              &store, NULL)


cdef void winograd_backward_weights(
    Winograd* g, const Field* x, const Field* dy, Prologue* before
) noexcept nogil:
    """The transform of the gradient of one chunk of filters, in place of the weights'."""
    cdef Py_ssize_t first, count
    for first from 0 <= first < g.tiles by g.block:
        count = min(g.block, g.tiles - first)
        derive_for(g, before, dy, first + count - 1, g.cells)
        transform_x(g, MAP_INPUT, x, first, count)
        transform_delta(g, dy, first, count)
        multiply_adjoint(g, block_spans(&g.tiling.spans, first, count), g.filters, g.y, first > 0)


cdef void multiply_adjoint(
    const Winograd* g, Spans spans, Py_ssize_t filters, const float* delta, bint add
) noexcept nogil:
    """Place by place, the transform of x, transposed, and panels of the delta's."""
    cdef Py_ssize_t place, column, width = up(filters, simd.panel)
    cdef Span at
    cdef Segment segment
    cdef Epilogue sum
    sum.biases = NULL
    sum.slope = 1
    sum.add = add
    for place in range(g.places):
        at = span(&spans, place // g.side, place % g.side)
        segment.length = at.count
        segment.a = g.x + place * g.x_place + at.first * g.x_row
        for column from 0 <= column < filters by simd.panel:
            segment.b = delta + place * g.y_place + column * spans.tiles + at.first * simd.panel
            simd.columns_product(g.channels, simd.panel, &segment, 1, g.x_row, simd.panel,
                                 g.w + place * g.w_place + column, width, &sum, NULL)


cdef void transform_gradient(
    const Winograd* g, Py_ssize_t count, float* dweights, Py_ssize_t column,
    Py_ssize_t filters, bint accumulate,
) noexcept nogil:
    """Write to `count` filters of `dweights`, or add to them, what their transform stands for.

    `column` and `filters` are the steps between the kernel's columns and between channels.
    """
    cdef TransformLoop loop = transform(g, MAP_GRADIENT)
    cdef Py_ssize_t width = up(count, simd.panel), depth = up(count, simd.vector)
    cdef Py_ssize_t c, j, k
    cdef float* target
    cdef Epilogue sum
    sum.biases = NULL
    sum.slope = 1
    sum.add = accumulate
    if (
        collide(filters) and depth == count and count <= PIECE_FILTERS
        and g.channels <= PIECE_CHANNELS
    ):
        for c in range(g.channels):
            loop(g.w + c * width, places(g, g.w_place), g.copy + c * count,
                 steps(3 * g.channels * count, g.channels * count), count // simd.vector,
                 NULL)
        for j in range(9):
            simd.spread(g.copy + j * g.channels * count, g.channels, count,
                        dweights + j * column, filters, accumulate)
        return
    for c in range(g.channels):
        for j in range(9):
            fetch(dweights + j * column + (c + AHEAD) * filters, count)
        if depth == count:
            loop(g.w + c * width, places(g, g.w_place), dweights + c * filters,
                 steps(3 * column, column), depth // simd.vector, &sum)
            continue
        loop(g.w + c * width, places(g, g.w_place), g.y_patch,
             steps(3 * depth, depth), depth // simd.vector, NULL)
        for j in range(9):
            target = dweights + j * column + c * filters
            for k in range(count):
                target[k] = g.y_patch[j * depth + k] + (target[k] if accumulate else 0)
