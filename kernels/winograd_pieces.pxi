# Winograd's F(4x4, 3x3) where tiles are few: pieces of weights go by way of L1 alone from
# memory to their products, or from products to memory.

# Channels of a piece that goes from memory to its products at once, and of one that goes back.
# Sums of more tiles than these would be read and written too often by such pieces.
cdef enum:
    PASSING = 16
    WEIGHING = 8
    PASSING_TILES = 16


cdef void take(
    const Weights* w, Py_ssize_t channel, Py_ssize_t filter, Py_ssize_t depth,
    Py_ssize_t filters, float* copy, Py_ssize_t step,
) noexcept nogil:
    """Copy a piece's taps, `step` elements apart, with zeros behind the filters."""
    cdef Py_ssize_t tap, column = w.channels * w.filters
    if filters < simd.panel:
        memset(copy, 0, 9 * step * sizeof(float))
    for tap in range(9):
        if w.adjoint:
            transpose(w.first + (8 - tap) * column + filter * w.filters + channel, w.filters,
                      filters, depth, copy + tap * step, simd.panel)
        else:
            simd.pack(w.first + tap * column + channel * w.filters + filter, w.filters, depth,
                      filters, copy + tap * step)


cdef Coming coming(
    const float* first, Py_ssize_t tap_step, Py_ssize_t row_step, Py_ssize_t rows,
    Py_ssize_t elements, Py_ssize_t pieces,
) noexcept nogil:
    """Rows of so many elements, to be on their way while so many pieces are worked on."""
    cdef Coming c
    c.first = first
    c.tap_step = tap_step
    c.row_step = row_step
    c.rows = rows
    c.run = (elements + 15) // 16
    c.pace = (9 * rows * c.run + 36 * pieces - 1) // (36 * pieces)
    c.tap = c.row = c.line = 0
    return c


cdef void pass_piece(
    const Winograd* g, const Weights* w, Py_ssize_t channel, Py_ssize_t filter,
    Py_ssize_t depth, const float* x, bint add, Coming* next,
) noexcept nogil:
    """A piece of the weights, whose first channel's transforms are at `x`, times all tiles."""
    cdef Py_ssize_t count = min(simd.panel, g.filters - filter)
    cdef Py_ssize_t tap = w.channels * w.filters, row = w.filters
    cdef const float* taps = w.first + channel * w.filters + filter
    if w.adjoint or count < simd.panel:
        row = simd.panel
        tap = depth * row + 16
        take(w, channel, filter, depth, count, g.copy, tap)
        taps = g.copy
    simd.pass_piece(taps, tap, row, depth, g.w, x, g.x_place, g.x_row, g.tiles, g.y + filter,
                    g.y_place, g.y_row, add, next)


cdef void pass_weights(const Winograd* g, const Weights* w, Py_ssize_t channel) noexcept nogil:
    """`g.channels` of them from this one on, in the order in which they lie in memory."""
    cdef Py_ssize_t k, f, depth, tap = w.channels * w.filters
    cdef Coming next
    if w.adjoint:
        for f from 0 <= f < g.filters by simd.panel:
            next = coming(w.first + (f + simd.panel) * w.filters + channel, tap, w.filters,
                          simd.panel, g.channels, (g.channels + PASSING - 1) // PASSING)
            for k from 0 <= k < g.channels by PASSING:
                depth = min(PASSING, g.channels - k)
                pass_piece(g, w, channel + k, f, depth, g.x + k, channel + k > 0, &next)
        return
    for k from 0 <= k < g.channels by PASSING:
        depth = min(PASSING, g.channels - k)
        next = coming(w.first + (channel + k + depth) * w.filters, tap, 0, 1,
                      PASSING * w.filters, (g.filters + simd.panel - 1) // simd.panel)
        for f from 0 <= f < g.filters by simd.panel:
            pass_piece(g, w, channel + k, f, depth, g.x + k, channel + k > 0, &next)


cdef void weigh(
    const Winograd* g, float* dweights, Py_ssize_t column, bint accumulate
) noexcept nogil:
    """The gradient of the weights of `g.channels`; `column` is the step between taps."""
    cdef Py_ssize_t k, f, depth
    cdef float* target
    cdef float* following
    cdef Coming next
    for f from 0 <= f < g.filters by simd.panel:
        for k from 0 <= k < g.channels by WEIGHING:
            depth = min(WEIGHING, g.channels - k)
            target = dweights + k * g.filters + f
            following = target + depth * g.filters
            if k + depth == g.channels:
                following = dweights + f + simd.panel
            next = coming(following, column, g.filters, WEIGHING, simd.panel, 1)
            weigh_piece(g, k, f, depth, target, column, accumulate, &next)


cdef void weigh_piece(
    const Winograd* g, Py_ssize_t channel, Py_ssize_t filter, Py_ssize_t depth, float* target,
    Py_ssize_t column, bint accumulate, Coming* next,
) noexcept nogil:
    cdef Py_ssize_t i, j, k, count = min(simd.panel, g.filters - filter)
    cdef const float* x = g.x + channel
    cdef const float* delta = g.y + filter * g.tiles
    cdef const float* source
    cdef float* row
    cdef Epilogue sum
    sum.biases = NULL
    sum.slope = 1
    sum.add = True
    if count == simd.panel:
        simd.weigh_piece(x, g.x_place, g.x_row, g.tiles, delta, g.y_place, depth, g.w, target,
                         column, g.filters, &sum if accumulate else NULL, next)
        return
    simd.weigh_piece(x, g.x_place, g.x_row, g.tiles, delta, g.y_place, depth, g.w, g.copy,
                     depth * simd.panel, simd.panel, NULL, next)
    for j in range(9):
        for i in range(depth):
            source = g.copy + (j * depth + i) * simd.panel
            row = target + j * column + i * g.filters
            for k in range(count):
                row[k] = source[k] + (row[k] if accumulate else 0)
