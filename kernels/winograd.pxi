# Winograd's algorithm for 3x3 kernels at stride 1, a block of output tiles at a time: input
# transform, one product for each of the transform's places, output transform.

cdef struct Winograd:
    Py_ssize_t cells, side, places  # of an output tile, of its transform, side squared
    Py_ssize_t channels, filters  # filters of one chunk
    Py_ssize_t tile_rows, tile_columns, tiles  # of one image; of all
    Py_ssize_t block  # tiles of a block
    Py_ssize_t first_row, first_column
    # Elements from place to place in the transforms of x, of y and of the weights; and from
    # row to row. Odd numbers of cache lines: the places' streams must not share cache sets.
    Py_ssize_t x_place, y_place, w_place
    Py_ssize_t x_row, y_row
    float* x
    float* y
    float* w
    float* x_patch
    float* y_patch
    float* biases


cdef Py_ssize_t set_up(Winograd* g, Py_ssize_t cells, Py_ssize_t channels,
                       Py_ssize_t filters, Py_ssize_t block, float* workspace) noexcept nogil:
    """Lay out the workspace. Returns its length in elements."""
    cdef float* p = aligned(workspace)
    g.cells = cells
    g.side = cells + 2
    g.places = g.side * g.side
    g.channels = channels
    g.filters = filters
    g.block = block
    g.x_row = up(channels, 32) + 16
    g.y_row = up(filters, 32) + 16
    g.x_place = up(block * g.x_row, 1024) + 80
    g.y_place = up(block * g.y_row, 1024) + 80
    g.w_place = up(channels * up(filters, 32), 1024) + 80
    g.x_patch = p
    p += g.places * up(channels, 32)
    g.y_patch = p
    p += g.places * up(filters, 32)
    g.biases = p
    p += up(filters, 32)
    g.w = p
    p += g.places * g.w_place
    g.x = p
    p += g.places * g.x_place
    g.y = p
    p += max(g.places * g.y_place, 9 * channels * filters - g.places * g.x_place)
    return (p - workspace) + 16


def winograd_elements(Py_ssize_t cells, Py_ssize_t channels, Py_ssize_t filters,
                      Py_ssize_t block):
    """Length of the workspace for one chunk of `filters`."""
    cdef Winograd g
    return set_up(&g, cells, channels, filters, block, NULL) + 16


cdef inline TransformLoop transform(const Winograd* g, int which) noexcept nogil:
    return simd.transforms[1 if g.cells == 4 else 0][which]


cdef inline Steps steps(Py_ssize_t row, Py_ssize_t column, Py_ssize_t panel) noexcept nogil:
    cdef Steps s
    s.row = row
    s.column = column
    s.panel = panel
    return s


cdef inline Steps places(const Winograd* g, Py_ssize_t place, Py_ssize_t panel) noexcept nogil:
    """Steps between the places of a transform."""
    return steps(g.side * place, place, panel)


cdef void transform_weights(
    const Winograd* g, const float* weights, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t filters,
) noexcept nogil:
    """To panels (place, panel, C, panel's filters). `filters` is the step between channels."""
    cdef Py_ssize_t whole_vectors = g.filters // simd.vector
    cdef Py_ssize_t c, j, rest = g.filters - whole_vectors * simd.vector
    cdef Py_ssize_t last = g.filters // simd.vector * simd.vector
    cdef TransformLoop loop = transform(g, MAP_WEIGHTS)
    cdef Steps to = places(g, g.w_place, g.channels * simd.panel)
    cdef float* target
    if g.filters % simd.panel:
        memset(g.w, 0, g.places * g.w_place * sizeof(float))
    for c in range(g.channels):
        target = g.w + c * simd.panel
        loop(weights + c * filters, steps(row, column, 0), target, to, whole_vectors, NULL)
        if rest:
            memset(g.y_patch, 0, 9 * simd.vector * sizeof(float))
            for j in range(9):
                memcpy(g.y_patch + j * simd.vector,
                       weights + j // 3 * row + j % 3 * column + c * filters + last,
                       rest * sizeof(float))
            loop(g.y_patch, steps(3 * simd.vector, simd.vector, 0),
                 target + last // simd.panel * to.panel + last % simd.panel, to, 1, NULL)


cdef struct Spot:
    # The first cell of an output tile.
    Py_ssize_t image, row, column


cdef inline Spot spot(const Winograd* g, Py_ssize_t tile) noexcept nogil:
    cdef Spot s
    cdef Py_ssize_t line = tile // g.tile_columns
    s.column = tile % g.tile_columns * g.cells
    s.image = line // g.tile_rows
    s.row = line % g.tile_rows * g.cells
    return s


cdef void transform_input(
    const Winograd* g, const Field* x, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    cdef TransformLoop loop = transform(g, MAP_INPUT)
    cdef Py_ssize_t depth = up(g.channels, simd.vector)
    cdef Steps to = places(g, g.x_place, 0)
    cdef Py_ssize_t t, row, column
    cdef Spot at
    for t in range(count):
        at = spot(g, first + t)
        row = g.first_row + at.row
        column = g.first_column + at.column
        if depth == g.channels and holds(x, row, column, g.side, g.side):
            loop(cell(x, at.image, row, column), steps(x.row, x.channels, 0),
                 g.x + t * g.x_row, to, depth // simd.vector, NULL)
        else:
            cut(x, at.image, row, column, g.side, g.side, g.x_patch, depth)
            loop(g.x_patch, steps(g.side * depth, depth, 0),
                 g.x + t * g.x_row, to, depth // simd.vector, NULL)


cdef void transform_output(
    const Winograd* g, const Field* y, Py_ssize_t first, Py_ssize_t count,
    const Epilogue* after,
) noexcept nogil:
    cdef TransformLoop loop = transform(g, MAP_OUTPUT)
    cdef Py_ssize_t depth = up(g.filters, simd.vector)
    cdef Steps source = places(g, g.y_place, 0)
    cdef Py_ssize_t t
    cdef Spot at
    for t in range(count):
        at = spot(g, first + t)
        if depth == g.filters and holds(y, at.row, at.column, g.cells, g.cells):
            loop(g.y + t * g.y_row, source, cell(y, at.image, at.row, at.column),
                 steps(y.row, y.channels, 0), depth // simd.vector, after)
        else:
            if after.add:
                cut_part(y, at, g.cells, g.y_patch, g.filters, depth)
            loop(g.y + t * g.y_row, source, g.y_patch, steps(g.cells * depth, depth, 0),
                 depth // simd.vector, after)
            paste_part(y, at, g.cells, g.y_patch, g.filters, depth)


cdef void cut_part(const Field* y, Spot at, Py_ssize_t cells, float* patch,
                   Py_ssize_t channels, Py_ssize_t depth) noexcept nogil:
    """As `cut`, of the first `channels` only."""
    cdef Py_ssize_t i, j
    memset(patch, 0, cells * cells * depth * sizeof(float))
    for i in range(min(cells, y.rows - at.row)):
        for j in range(min(cells, y.columns - at.column)):
            memcpy(patch + (i * cells + j) * depth,
                   cell(y, at.image, at.row + i, at.column + j), channels * sizeof(float))


cdef void paste_part(const Field* y, Spot at, Py_ssize_t cells, const float* patch,
                     Py_ssize_t channels, Py_ssize_t depth) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(min(cells, y.rows - at.row)):
        for j in range(min(cells, y.columns - at.column)):
            memcpy(cell(y, at.image, at.row + i, at.column + j),
                   patch + (i * cells + j) * depth, channels * sizeof(float))


cdef void transform_delta(
    const Winograd* g, const Field* dy, Py_ssize_t first, Py_ssize_t count
) noexcept nogil:
    """To panels (place, panel, tile, panel's filters)."""
    cdef TransformLoop loop = transform(g, MAP_DELTA)
    cdef Py_ssize_t depth = up(g.filters, simd.vector)
    cdef Steps to = places(g, g.y_place, count * simd.panel)
    cdef Py_ssize_t t
    cdef Spot at
    if depth % simd.panel:
        memset(g.y, 0, g.places * g.y_place * sizeof(float))
    for t in range(count):
        at = spot(g, first + t)
        if depth == g.filters and holds(dy, at.row, at.column, g.cells, g.cells):
            loop(cell(dy, at.image, at.row, at.column), steps(dy.row, dy.channels, 0),
                 g.y + t * simd.panel, to, depth // simd.vector, NULL)
        else:
            cut_part(dy, at, g.cells, g.y_patch, g.filters, depth)
            loop(g.y_patch, steps(g.cells * depth, depth, 0),
                 g.y + t * simd.panel, to, depth // simd.vector, NULL)


cdef void count_tiles(Winograd* g, const Field* y) noexcept nogil:
    """Deal the tiles out to blocks of about equal numbers."""
    cdef Py_ssize_t blocks
    g.tile_rows = (y.rows + g.cells - 1) // g.cells
    g.tile_columns = (y.columns + g.cells - 1) // g.cells
    g.tiles = y.images * g.tile_rows * g.tile_columns
    blocks = (g.tiles + g.block - 1) // g.block
    g.block = (g.tiles + blocks - 1) // blocks


cdef void derive_for(
    Winograd* g, Prologue* before, const Field* dy, Py_ssize_t last, Py_ssize_t reach
) noexcept nogil:
    cdef Spot at = spot(g, last)
    derive_until(before, dy, at.image, max(0, min(dy.rows, at.row + reach)))


cdef void winograd_forward(
    Winograd* g, const Field* x, const Field* y, const Epilogue* after, Prologue* before
) noexcept nogil:
    """One chunk of filters, whose weights are transformed."""
    cdef Py_ssize_t first, count, place, column
    cdef Segment segment
    cdef Epilogue plain
    plain.biases = NULL
    plain.slope = 1
    plain.add = False
    count_tiles(g, y)
    segment.length = g.channels
    for first from 0 <= first < g.tiles by g.block:
        count = min(g.block, g.tiles - first)
        derive_for(g, before, x, first + count - 1, g.first_row + g.side)
        transform_input(g, x, first, count)
        for place in range(g.places):
            segment.a = g.x + place * g.x_place
            for column from 0 <= column < g.filters by simd.panel:
                segment.b = g.w + place * g.w_place + column * g.channels
                simd.rows_product(count, simd.panel, &segment, 1, g.x_row, simd.panel,
                                  g.y + place * g.y_place + column, g.y_row, &plain)
        transform_output(g, y, first, count, after)
    if before != NULL:
        derive_until(before, x, x.images, 0)


cdef void winograd_backward_weights(
    Winograd* g, const Field* x, const Field* dy, Prologue* before
) noexcept nogil:
    """The transform of the gradient of one chunk of filters, in place of the weights'."""
    cdef Py_ssize_t first, count, place, column, width = up(g.filters, simd.panel)
    cdef Segment segment
    cdef Epilogue sum
    sum.biases = NULL
    sum.slope = 1
    count_tiles(g, dy)
    for first from 0 <= first < g.tiles by g.block:
        count = min(g.block, g.tiles - first)
        derive_for(g, before, dy, first + count - 1, g.cells)
        transform_input(g, x, first, count)
        transform_delta(g, dy, first, count)
        segment.length = count
        sum.add = first > 0
        for place in range(g.places):
            segment.a = g.x + place * g.x_place
            for column from 0 <= column < g.filters by simd.panel:
                segment.b = g.y + place * g.y_place + column * count
                simd.columns_product(g.channels, simd.panel, &segment, 1, g.x_row, simd.panel,
                                     g.w + place * g.w_place + column, width, &sum)


cdef void transform_gradient(
    const Winograd* g, float* dweights, Py_ssize_t row, Py_ssize_t column, Py_ssize_t filters
) noexcept nogil:
    """Add to the chunk of `dweights` what its transform stands for."""
    cdef TransformLoop loop = transform(g, MAP_GRADIENT)
    cdef Py_ssize_t width = up(g.filters, simd.panel), depth = up(g.filters, simd.vector)
    cdef Py_ssize_t c, j, k
    cdef float* target
    cdef Epilogue add
    add.biases = NULL
    add.slope = 1
    add.add = True
    for c in range(g.channels):
        if depth == g.filters:
            loop(g.w + c * width, places(g, g.w_place, 0), dweights + c * filters,
                 steps(row, column, 0), depth // simd.vector, &add)
            continue
        loop(g.w + c * width, places(g, g.w_place, 0), g.y_patch,
             steps(3 * depth, depth, 0), depth // simd.vector, NULL)
        for j in range(9):
            target = dweights + j // 3 * row + j % 3 * column + c * filters
            for k in range(g.filters):
                target[k] += g.y_patch[j * depth + k]
