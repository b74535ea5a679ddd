# The transform of weights, piece by piece, as they are or transposed.

cdef struct Weights:
    # Weights (3, 3, C, K) as cross-correlation takes them, or transposed; the last tap may come
    # first: both make the correlation whose result is the input's gradient.
    const float* first
    Py_ssize_t channels, filters
    bint transposed, backwards


cdef inline bint collide(Py_ssize_t step) noexcept nogil:
    """Whether rows so far apart share cache sets: nine taps' at once would not stay in L1."""
    return step % 512 == 0


cdef void transform_weights(
    const Winograd* g, const Weights* w, Py_ssize_t channel, Py_ssize_t filter,
    Py_ssize_t filters,
) noexcept nogil:
    """`g.channels` and so many filters to panels (place, panel, C, panel's filters)."""
    cdef Py_ssize_t c, f, tap, depth, count
    cdef Py_ssize_t column = w.channels * w.filters
    cdef float* target
    for f from 0 <= f < filters by PIECE_FILTERS:
        count = min(PIECE_FILTERS, filters - f)
        for c from 0 <= c < g.channels by PIECE_CHANNELS:
            depth = min(PIECE_CHANNELS, g.channels - c)
            target = g.w + f * g.channels + c * simd.panel
            if not w.transposed and collide(w.filters):
                copy_and_transform_piece(
                    g, w.first + (channel + c) * w.filters + filter + f, column, w.filters,
                    depth, count, target)
                continue
            if not w.transposed:
                transform_piece(g, w.first + (channel + c) * w.filters + filter + f,
                                3 * column, column, w.filters, depth, count, target)
                continue
            for tap in range(9):
                simd.transpose(w.first + tap * column + (filter + f) * w.filters + channel + c,
                               w.filters, count, depth, g.copy + tap * depth * count, count)
            if w.backwards:
                transform_piece(g, g.copy + 8 * depth * count, -3 * depth * count,
                                -depth * count, count, depth, count, target)
            else:
                transform_piece(g, g.copy, 3 * depth * count, depth * count, count, depth,
                                count, target)


cdef void copy_and_transform_piece(
    const Winograd* g, const float* weights, Py_ssize_t column, Py_ssize_t channel,
    Py_ssize_t depth, Py_ssize_t filters, float* target,
) noexcept nogil:
    """As `transform_piece`, tap by tap through a copy."""
    cdef Py_ssize_t first, width, tap, step = depth * simd.panel
    for first from 0 <= first < filters by simd.panel:
        width = min(simd.panel, filters - first)
        for tap in range(9):
            simd.pack(weights + tap * column + first, channel, depth, width,
                      g.copy + tap * step)
        transform_piece(g, g.copy, 3 * step, step, simd.panel, depth, width,
                        target + first * g.channels)


cdef void transform_piece(
    const Winograd* g, const float* weights, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t channel, Py_ssize_t depth, Py_ssize_t filters, float* target,
) noexcept nogil:
    """`row`, `column` and `channel` are the steps of `weights`; small ones are a copy's."""
    cdef Py_ssize_t whole_vectors = filters // simd.vector
    cdef Py_ssize_t last = whole_vectors * simd.vector, rest = filters - last
    cdef Py_ssize_t c, j
    cdef TransformLoop loop = transform(g, MAP_WEIGHTS)
    cdef Steps to = panels(g, g.w_place, g.channels * simd.panel, simd.panel)
    if filters % simd.panel:
        for j in range(g.places):
            memset(target + j * g.w_place + filters // simd.panel * to.pair, 0,
                   depth * simd.panel * sizeof(float))
    for c in range(depth):
        if channel > PIECE_FILTERS:
            for j in range(9):
                fetch(weights + j // 3 * row + j % 3 * column + (c + AHEAD) * channel, filters)
        loop(weights + c * channel, steps(row, column), target, to, whole_vectors, NULL)
        if rest:
            memset(g.y_patch, 0, 9 * simd.vector * sizeof(float))
            for j in range(9):
                memcpy(g.y_patch + j * simd.vector,
                       weights + j // 3 * row + j % 3 * column + c * channel + last,
                       rest * sizeof(float))
            loop(g.y_patch, steps(3 * simd.vector, simd.vector),
                 target + last // simd.panel * to.pair + last % simd.panel, to, 1, NULL)
        target += simd.panel
