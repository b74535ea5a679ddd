# How a box's cells are cut into Winograd's output tiles, and in which order these lie.

cdef struct Tiling:
    Py_ssize_t cells  # of a whole tile's side
    Py_ssize_t whole_rows, whole_columns  # whole tiles of one image
    Py_ssize_t rest_rows, rest_columns  # cells that they leave at the bottom and on the right
    Spans spans


cdef struct Spot:
    # An output tile's first cell, and its cells.
    Py_ssize_t image, row, column
    Py_ssize_t height, width


cdef Tiling tiling(Py_ssize_t cells, const Field* y, bint rests) noexcept nogil:
    """`rests`: whether tiles at the edges have the box's last cells only, or reach beyond it."""
    cdef Tiling t
    t.cells = cells
    t.rest_rows = y.rows % cells if rests else 0
    t.rest_columns = y.columns % cells if rests else 0
    t.whole_rows = (y.rows if rests else y.rows + cells - 1) // cells
    t.whole_columns = (y.columns if rests else y.columns + cells - 1) // cells
    t.spans.rows = (t.rest_rows or cells) + 2
    t.spans.columns = (t.rest_columns or cells) + 2
    t.spans.bottom = y.images * t.whole_columns if t.rest_rows else 0
    t.spans.whole = y.images * t.whole_rows * t.whole_columns
    t.spans.right = y.images * t.whole_rows if t.rest_columns else 0
    t.spans.tiles = t.spans.bottom + t.spans.whole + t.spans.right
    if t.rest_rows and t.rest_columns:
        t.spans.tiles += y.images
    return t


cdef inline Spot spot(const Tiling* t, Py_ssize_t tile) noexcept nogil:
    cdef Spot s
    cdef Py_ssize_t rows = t.whole_rows, columns = t.whole_columns
    cdef Py_ssize_t row = rows, column = columns, inner
    s.height = s.width = t.cells
    if tile < t.spans.bottom:
        s.image = tile // columns
        column = tile % columns
    elif tile - t.spans.bottom < t.spans.whole:
        inner = tile - t.spans.bottom
        s.image = inner // columns // rows
        row = inner // columns % rows
        column = inner % columns
    elif tile - t.spans.bottom - t.spans.whole < t.spans.right:
        inner = tile - t.spans.bottom - t.spans.whole
        s.image = inner // rows
        row = inner % rows
    else:
        s.image = tile - t.spans.bottom - t.spans.whole - t.spans.right
    if row == rows:
        s.height = t.rest_rows
    if column == columns:
        s.width = t.rest_columns
    s.row = row * t.cells
    s.column = column * t.cells
    return s


cdef inline Py_ssize_t tile_at(const Tiling* t, Py_ssize_t image, Py_ssize_t row,
                               Py_ssize_t column) noexcept nogil:
    """The number of the tile in this row and column of tiles, rests included."""
    cdef Py_ssize_t rows = t.whole_rows, columns = t.whole_columns
    cdef Py_ssize_t right = t.spans.bottom + t.spans.whole
    if row < rows and column < columns:
        return t.spans.bottom + (image * rows + row) * columns + column
    if row < rows:
        return right + image * rows + row
    return image * columns + column if column < columns else right + t.spans.right + image


cdef void paste(const Field* y, const Spot* at, const float* patch, Py_ssize_t channels,
                Py_ssize_t depth) noexcept nogil:
    cdef Py_ssize_t i, j
    for i in range(min(at.height, y.rows - at.row)):
        for j in range(min(at.width, y.columns - at.column)):
            memcpy(cell(y, at.image, at.row + i, at.column + j),
                   patch + (i * at.width + j) * depth, channels * sizeof(float))


cdef inline Py_ssize_t overlap(Py_ssize_t first, Py_ssize_t count, Py_ssize_t start,
                               Py_ssize_t length) noexcept nogil:
    """How many of a stretch are in another."""
    return max(0, min(first + count, start + length) - max(first, start))


cdef Spans block_spans(const Spans* s, Py_ssize_t first, Py_ssize_t count) noexcept nogil:
    """So many of the tiles, from this one on."""
    return Spans(s.rows, s.columns, overlap(first, count, 0, s.bottom),
                 overlap(first, count, s.bottom, s.whole),
                 overlap(first, count, s.bottom + s.whole, s.right), count)


cdef Py_ssize_t dealt(Py_ssize_t tiles, Py_ssize_t block) noexcept nogil:
    """The tiles of each block, at most so many, where their numbers are about equal."""
    cdef Py_ssize_t blocks = (tiles + block - 1) // block
    return (tiles + blocks - 1) // blocks
