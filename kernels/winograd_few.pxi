# Winograd's algorithm where tiles are few: the transforms of all tiles stay, and the weights,
# much larger, pass by in pieces that are in L2 from their transform to their product.

cdef Py_ssize_t set_up_few(
    Winograd* g, Py_ssize_t cells, Py_ssize_t channels, Py_ssize_t filters, Py_ssize_t tiles,
    float* workspace,
) noexcept nogil:
    return set_up(g, cells, min(channels, PIECE_CHANNELS), filters, tiles, PIECE_FILTERS,
                  workspace)


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
    cdef Py_ssize_t c, f, count, depth = g.channels
    if g.cells == 4 and g.tiles <= PASSING_TILES:
        lay_in_panels(g)
    if before != NULL:
        derive_until(before, &x, x.images, 0)
    for c from 0 <= c < x.channels by depth:
        g.channels = min(depth, x.channels - c)
        transform_input(g, &x, 0, g.tiles)
        if g.x_panel:
            pass_weights(g, w, c)
        else:
            for f from 0 <= f < g.filters by PIECE_FILTERS:
                count = min(PIECE_FILTERS, g.filters - f)
                transform_weights(g, w, c, f, count)
                multiply(g, g.tiling.spans, count, g.y + f, c > 0)
        x.cells += depth
    transform_output(g, y, 0, g.tiles, after)


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
        transform_input(g, &x, 0, g.tiles)
        if g.x_panel:
            weigh(g, dweights + c * g.filters, column, accumulate)
        else:
            for f from 0 <= f < g.filters by PIECE_FILTERS:
                count = min(PIECE_FILTERS, g.filters - f)
                multiply_adjoint(g, g.tiles, count, g.y + f * g.tiles, False)
                transform_gradient(g, count, dweights + c * g.filters + f, column, g.filters,
                                   accumulate)
        x.cells += depth
