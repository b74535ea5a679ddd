# A box of cells in a tile, with zeros all around it.

cdef struct Field:
    float* cells  # its first one
    Py_ssize_t images, rows, columns, channels
    Py_ssize_t image, row  # elements from one image or row to the next


cdef Field field(
    const float[:, :, :, ::1] array, Py_ssize_t row, Py_ssize_t column,
    Py_ssize_t rows, Py_ssize_t columns,
) noexcept:
    cdef Field f
    f.cells = <float*>&array[0, row, column, 0]
    f.images = array.shape[0]
    f.rows = rows
    f.columns = columns
    f.channels = array.shape[3]
    f.row = array.shape[2] * f.channels
    f.image = array.shape[1] * f.row
    return f


cdef inline float* cell(const Field* f, Py_ssize_t image, Py_ssize_t row,
                        Py_ssize_t column) noexcept nogil:
    return f.cells + image * f.image + row * f.row + column * f.channels


cdef inline bint holds(const Field* f, Py_ssize_t row, Py_ssize_t column,
                       Py_ssize_t rows, Py_ssize_t columns) noexcept nogil:
    return row >= 0 and column >= 0 and row + rows <= f.rows and column + columns <= f.columns


cdef void cut(
    const Field* f, Py_ssize_t image, Py_ssize_t row, Py_ssize_t column, Py_ssize_t rows,
    Py_ssize_t columns, Py_ssize_t channels, float* patch, Py_ssize_t depth,
) noexcept nogil:
    """Copy the first `channels` of a patch of cells, `depth` elements apart, zeros between.

    What the field lacks is zero.
    """
    cdef Py_ssize_t top = max(0, -row), bottom = min(rows, f.rows - row)
    cdef Py_ssize_t left = max(0, -column), right = min(columns, f.columns - column)
    cdef Py_ssize_t i, j
    cdef const float* source
    cdef float* target
    if top > 0 or left > 0 or bottom < rows or right < columns or depth != channels:
        memset(patch, 0, rows * columns * depth * sizeof(float))
    if left >= right:
        return
    for i in range(top, bottom):
        source = cell(f, image, row + i, column + left)
        target = patch + (i * columns + left) * depth
        if depth == f.channels:
            memcpy(target, source, (right - left) * depth * sizeof(float))
        else:
            for j in range(right - left):
                memcpy(target + j * depth, source + j * f.channels, channels * sizeof(float))


cdef inline Py_ssize_t up(Py_ssize_t value, Py_ssize_t step) noexcept nogil:
    return (value + step - 1) // step * step


cdef inline float* aligned(float* p) noexcept nogil:
    """The next start of a cache line."""
    return <float*>((<size_t>p + 63) & ~<size_t>63)


cdef struct Prologue:
    # The derivative of the activation, applied to rows of dy just before they are read.
    Field y
    float slope
    float* sums  # a row's, by channel
    double* totals  # NULL if not wanted
    Py_ssize_t done  # rows of all images


cdef void derive_until(
    Prologue* p, const Field* dy, Py_ssize_t image, Py_ssize_t row
) noexcept nogil:
    """Treat all rows of earlier images, and this image's first `row`."""
    cdef Py_ssize_t end = min(image * dy.rows + row, dy.images * dy.rows)
    cdef Py_ssize_t n, i, k
    if p == NULL:
        return
    while p.done < end:
        n = p.done // dy.rows
        i = p.done % dy.rows
        if p.totals != NULL:
            memset(p.sums, 0, dy.channels * sizeof(float))
        simd.derive(cell(dy, n, i, 0), cell(&p.y, n, i, 0), dy.columns, dy.channels,
                    p.slope, p.sums if p.totals != NULL else NULL)
        if p.totals != NULL:
            for k in range(dy.channels):
                p.totals[k] += p.sums[k]
        p.done += 1
