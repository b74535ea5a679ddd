# Winograd's F(4x4, 3x3) where tiles are few: pieces of weights go by way of L1 alone from
# memory to their products, or from products to memory.

# Channels of a piece, which are `simd.piece` or fewer; tiles beyond which sums would be read and
# written too often by such pieces; elements of the panels that stay in L2 while pieces pass.
cdef enum:
    MOST_PASSING = 16
    PASSING_TILES = 56
    TOGETHER = 192 * 1024


cdef void take(
    const Weights* w, Py_ssize_t channel, Py_ssize_t filter, Py_ssize_t depth,
    Py_ssize_t filters, float* copy, Py_ssize_t step,
) noexcept nogil:
    """Copy a piece's taps, `step` elements apart, with zeros behind the filters."""
    cdef Py_ssize_t tap, column = w.channels * w.filters
    if filters < simd.panel:
        memset(copy, 0, 9 * step * sizeof(float))
    for tap in range(9):
        if w.transposed:
            simd.transpose(w.first + (8 - tap if w.backwards else tap) * column
                           + filter * w.filters + channel,
                           w.filters, filters, depth, copy + tap * step, simd.panel)
        else:
            simd.pack(w.first + tap * column + channel * w.filters + filter, w.filters, depth,
                      filters, copy + tap * step)


cdef Coming coming(
    const float* first, Py_ssize_t tap_step, Py_ssize_t row_step, Py_ssize_t rows,
    Py_ssize_t elements, Py_ssize_t pieces,
) noexcept nogil:
    """Rows of so many elements, to be on their way while so many pieces are worked on."""
    cdef Coming c
    c.first = c.next = first
    c.tap_step = tap_step
    c.row_step = row_step
    c.rows = rows
    c.run = (elements + 15) // 16
    c.pace = min((9 * rows * c.run + 36 * pieces - 1) // (36 * pieces), c.run)
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
    if w.transposed or count < simd.panel:
        row = simd.panel
        tap = depth * row + 16
        take(w, channel, filter, depth, count, g.copy, tap)
        taps = g.copy
    simd.pass_piece(taps, tap, row, depth, g.w, x, &g.tiling.spans,
                    g.y + filter // simd.panel * g.y_panel, add, next)


cdef Py_ssize_t together(const Winograd* g) noexcept nogil:
    """Filters of the panels that stay in L2 while weights of all channels pass."""
    cdef Py_ssize_t count = (g.filters + simd.panel - 1) // simd.panel
    return dealt(count, max(TOGETHER // g.y_panel, 1)) * simd.panel


cdef Coming coming_rows(
    const Winograd* g, const Weights* w, Py_ssize_t channel, Py_ssize_t first, Py_ssize_t end,
    Py_ssize_t k,
) noexcept nogil:
    """What comes after `PIECE_CHANNELS` from `k` on of the rows of a panel of filters."""
    cdef Py_ssize_t ahead = k + PIECE_CHANNELS, row = first
    if ahead >= g.channels:
        ahead = 0 if end < g.filters else g.channels
        row = end if end < g.filters else 0
    return coming(w.first + channel + ahead + row * w.filters, w.channels * w.filters,
                  w.filters, simd.panel, PIECE_CHANNELS,
                  (min(PIECE_CHANNELS, g.channels - k) + simd.piece - 1) // simd.piece)


cdef void pass_weights(const Winograd* g, const Weights* w, Py_ssize_t channel) noexcept nogil:
    """`g.channels` of them from this one on, in about the order in which they lie in memory."""
    cdef Py_ssize_t first, k, f, end, depth, tap = w.channels * w.filters
    cdef Py_ssize_t group = simd.panel if w.transposed else together(g)
    cdef const float* following
    cdef Coming next
    for first from 0 <= first < g.filters by group:
        end = min(first + group, g.filters)
        for k from 0 <= k < g.channels by simd.piece:
            depth = min(simd.piece, g.channels - k)
            if w.transposed and k % PIECE_CHANNELS == 0:
                next = coming_rows(g, w, channel, first, end, k)
            elif not w.transposed:
                following = w.first + (channel + k + depth) * w.filters + first
                if k + depth == g.channels and end < g.filters:
                    following = w.first + channel * w.filters + end
                next = coming(following, tap, w.filters, simd.piece, end - first,
                              group // simd.panel)
            for f from first <= f < end by simd.panel:
                pass_piece(g, w, channel + k, f, depth, g.x + k // simd.piece * g.x_panel,
                           channel + k > 0, &next)


cdef void weigh(
    const Winograd* g, float* dweights, Py_ssize_t column, bint accumulate
) noexcept nogil:
    """The gradient of the weights of `g.channels`; `column` is the step between taps."""
    cdef Py_ssize_t first, k, f, end, depth, group = together(g)
    cdef float* following
    cdef Coming next
    for first from 0 <= first < g.filters by group:
        end = min(first + group, g.filters)
        for k from 0 <= k < g.channels by WEIGHING:
            depth = min(WEIGHING, g.channels - k)
            following = dweights + (k + depth) * g.filters + first
            if k + depth == g.channels and end < g.filters:
                following = dweights + end
            next = coming(following, column, g.filters, WEIGHING, end - first,
                          group // simd.panel)
            for f from first <= f < end by simd.panel:
                weigh_piece(g, k, f, depth, dweights + k * g.filters + f, column, accumulate,
                            &next)


cdef void weigh_piece(
    const Winograd* g, Py_ssize_t channel, Py_ssize_t filter, Py_ssize_t depth, float* target,
    Py_ssize_t column, bint accumulate, Coming* next,
) noexcept nogil:
    cdef Py_ssize_t i, j, k, count = min(simd.panel, g.filters - filter)
    cdef const float* x = g.x + channel // simd.piece * g.x_panel + channel % simd.piece
    cdef const float* delta = g.y + filter // simd.panel * g.y_panel
    cdef const float* source
    cdef float* row
    if count == simd.panel:
        simd.weigh_piece(x, &g.tiling.spans, delta, depth, g.w, target, column, g.filters,
                         accumulate, next)
        return
    simd.weigh_piece(x, &g.tiling.spans, delta, depth, g.w, g.copy, depth * simd.panel,
                     simd.panel, False, next)
    for j in range(9):
        for i in range(depth):
            source = g.copy + (j * depth + i) * simd.panel
            row = target + j * column + i * g.filters
            for k in range(count):
                row[k] = source[k] + (row[k] if accumulate else 0)
