# Winograd's algorithm where tiles are few: the transforms of all tiles stay, and the weights,
# much larger, pass by in pieces that are in L2 from their transform to their product.

cdef Py_ssize_t set_up_few(
    Winograd* g, Py_ssize_t cells, Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t tiles,
    bint adjoint, float* workspace,
) noexcept nogil:
    """Transforms are of some channels of x at a time.

    `adjoint`: of as many of dy's as stay in L2, for a row of the weights has them all, and is
    then passed over once.
    """
    cdef Py_ssize_t depth = min(channels, PIECE_CHANNELS), most = 1
    if not passing(cells, tiles):
        return set_up(g, cells, depth, filters, tiles, depth, PIECE_FILTERS, workspace)
    if adjoint:
        most = max(TOGETHER // (36 * tiles * PIECE_CHANNELS), 1)
    return set_up(g, cells, min(channels, most * PIECE_CHANNELS), filters, tiles,
                  MOST_PASSING, PIECE_FILTERS, workspace)


cdef inline bint passing(Py_ssize_t cells, Py_ssize_t tiles) noexcept nogil:
    """Whether small pieces of weights pass by from memory to their products."""
    return cells == 4 and tiles <= PASSING_TILES


cdef void lay_in_panels(Winograd* g) noexcept nogil:
    """Transforms as (panel, place, tile, panel's channels): a piece of weights meets one run."""
    g.x_row = simd.piece
    g.x_place = g.tiles * g.x_row
    g.x_panel = g.places * g.x_place
    g.y_row = simd.panel
    g.y_place = g.tiles * g.y_row
    g.y_panel = g.places * g.y_place


cdef void few_forward(
    Winograd* g, Field x, const Field* y, const Weights* w, const Epilogue* after,
    Prologue* before,
) noexcept nogil:
    few_products(g, x, w, MAP_INPUT, before)
    transform_output(g, y, 0, g.tiles, after)


cdef void few_backward_input(
    Winograd* g, Field dy, const Field* dx, const Weights* w, bint add, Prologue* before
) noexcept nogil:
    few_products(g, dy, w, MAP_DELTA, before)
    scatter(g, dx, add)


cdef void few_products(
    Winograd* g, Field x, const Weights* w, int which, Prologue* before
) noexcept nogil:
    """The transforms of x, or those that deltas have, times the weights'."""
    cdef Py_ssize_t c, f, count, depth = g.channels
    if passing(g.cells, g.tiles):
        lay_in_panels(g)
    if before != NULL:
        derive_until(before, &x, x.images, 0)
    for c from 0 <= c < x.channels by depth:
        g.channels = min(depth, x.channels - c)
        transform_x(g, which, &x, 0, g.tiles)
        if g.x_panel:
            pass_weights(g, w, c)
        else:
            for f from 0 <= f < g.filters by PIECE_FILTERS:
                count = min(PIECE_FILTERS, g.filters - f)
                transform_weights(g, w, c, f, count)
                multiply(g, g.tiling.spans, count, g.y + f, c > 0)
        x.cells += depth


cdef void scatter(const Winograd* g, const Field* dx, bint add) noexcept nogil:
    """Write or add to the box that windows of all tiles cover what the transforms give back.

    Row by row, each tile adds to what the one above and the one before share with it.
    """
    cdef Steps source = panels(g, g.y_place, g.y_panel, simd.panel)
    cdef Py_ssize_t image, i, j, t, row, column
    cdef Py_ssize_t rows = g.tiling.whole_rows + (g.tiling.rest_rows > 0)
    cdef Py_ssize_t columns = g.tiling.whole_columns + (g.tiling.rest_columns > 0)
    cdef Spot at
    cdef Patch p
    for image in range(dx.images):
        for i in range(rows):
            for j in range(columns):
                t = tile_at(&g.tiling, image, i, j)
                at = spot(&g.tiling, t)
                row = g.first_row + at.row
                column = g.first_column + at.column
                p.top = max(0, -row)
                p.bottom = min(at.height + 2, dx.rows - row)
                p.left = max(0, -column)
                p.right = min(at.width + 2, dx.columns - column)
                p.shared_rows = g.side if add else 2 if i else 0
                p.shared_columns = 2 if j else 0
                simd.scatter(at.height, at.width, g.y + t * g.y_row, source,
                             cell(dx, image, row, column), steps(dx.row, dx.channels),
                             dx.channels, &p)


cdef void few_backward_weights(
    Winograd* g, Field x, const Field* dy, float* dweights, bint accumulate, Prologue* before
) noexcept nogil:
    cdef Py_ssize_t c, f, count, depth = g.channels, column = x.channels * g.filters
    if g.cells == 4:
        lay_in_panels(g)
    if before != NULL:
        derive_until(before, dy, dy.images, 0)
    transform_delta(g, dy, 0, g.tiles)
    for c from 0 <= c < x.channels by depth:
        g.channels = min(depth, x.channels - c)
        transform_x(g, MAP_INPUT, &x, 0, g.tiles)
        if g.x_panel:
            weigh(g, dweights + c * g.filters, column, accumulate)
        else:
            for f from 0 <= f < g.filters by PIECE_FILTERS:
                count = min(PIECE_FILTERS, g.filters - f)
                multiply_adjoint(g, g.tiling.spans, count, g.y + f * g.tiles, False)
                transform_gradient(g, count, dweights + c * g.filters + f, column, g.filters,
                                   accumulate)
        x.cells += depth
