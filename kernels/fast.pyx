"""Float32 convolution by the SIMD loops of simd/simd.h, max-pool, batch norm and derivatives.

Boxes are handed over as row, column, rows and columns in an array; `window` is the first
window's row and column, counted from the input box's first cell. Nothing is checked here.
"""

include "simd.pxi"
include "field.pxi"
include "direct.pxi"
include "winograd_tiles.pxi"
include "winograd.pxi"
include "winograd_weights.pxi"
include "winograd_transforms.pxi"
include "winograd_pieces.pxi"
include "winograd_few.pxi"
include "windows.pxi"

ctypedef (Py_ssize_t, Py_ssize_t, Py_ssize_t, Py_ssize_t) BoxOf
ctypedef (Py_ssize_t, Py_ssize_t) Place


cdef Field field_of(const float[:, :, :, ::1] array, BoxOf box) noexcept:
    return field(array, box[0], box[1], box[2], box[3])


cdef class Derivative:
    """The activation's derivative by its output, yet to be applied to a box of dy.

    `totals`, float64 (channels,) or None, gets the products' sums added.
    """

    cdef Prologue prologue
    cdef object kept

    def __init__(self, const float[:, :, :, ::1] y, BoxOf box, float slope,
                 float[::1] sums, double[::1] totals):
        self.prologue.y = field_of(y, box)
        self.prologue.slope = slope
        self.prologue.done = 0
        self.prologue.sums = NULL
        self.prologue.totals = NULL
        if totals is not None:
            self.prologue.sums = &sums[0]
            self.prologue.totals = &totals[0]
        self.kept = (y, sums, totals)

    def apply(self, float[:, :, :, ::1] dy, BoxOf box):
        """All of it at once."""
        cdef Field f = field_of(dy, box)
        cdef Prologue* p = &self.prologue
        with nogil:
            derive_until(p, &f, f.images, 0)


cdef Prologue* prologue_of(Derivative derivative) noexcept:
    return NULL if derivative is None else &derivative.prologue


cdef Epilogue epilogue(const float[::1] biases, float slope, bint add) noexcept:
    cdef Epilogue e
    e.biases = NULL if biases is None else <const float*>&biases[0]
    e.slope = slope
    e.add = add
    return e


cdef Direct direct(const float[:, :, :, ::1] weights, Place window,
                   Py_ssize_t stride) noexcept:
    return Direct(weights.shape[0], weights.shape[1], stride, window[0], window[1])


def direct_forward_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] y, BoxOf y_box, Place window, Py_ssize_t stride,
    const float[::1] biases, float slope, float[::1] workspace,
):
    cdef Direct d = direct(weights, window, stride)
    cdef Field source = field_of(x, x_box), target = field_of(y, y_box)
    cdef Epilogue after = epilogue(biases, slope, False)
    cdef float* panels = aligned(&workspace[0])
    cdef Py_ssize_t size = panel_elements(&d, x.shape[3], y.shape[3])
    cdef Py_ssize_t rows = d.height * d.width * source.channels, filters = target.channels
    cdef Py_ssize_t first, count, chunk = filters_at_once(rows, filters)
    with nogil:
        for first from 0 <= first < filters by chunk:
            count = min(chunk, filters - first)
            pack(&weights[0, 0, 0, first], filters, rows, count, panels)
            if biases is not None:
                after.biases = &biases[first]
            direct_forward(&d, source, target, count, panels, panels + size, &after, NULL, NULL)
            target.cells += count


def direct_backward_input_box(
    const float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] dx, BoxOf dx_box, Place window, bint add,
    Derivative derivative, float[::1] workspace,
):
    """`window`: that of dx's first cell, in dy."""
    cdef Direct d = direct(weights, window, 1)
    cdef Field source = field_of(dy, dy_box), target = field_of(dx, dx_box)
    cdef Epilogue after = epilogue(None, 1, add)
    cdef float* panels = aligned(&workspace[0])
    cdef Py_ssize_t size = panel_elements(&d, dy.shape[3], dx.shape[3])
    cdef Prologue* before = prologue_of(derivative)
    cdef Py_ssize_t taps = d.height * d.width, channels = target.channels
    cdef Py_ssize_t first, count, chunk = filters_at_once(taps * source.channels, channels)
    with nogil:
        for first from 0 <= first < channels by chunk:
            count = min(chunk, channels - first)
            pack_adjoint(&weights[0, 0, first, 0], taps, channels, source.channels, count,
                         panels)
            direct_forward(&d, source, target, count, panels, panels + size, &after, before,
                           &source)
            target.cells += count


def direct_backward_weights_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] dy, BoxOf dy_box,
    float[:, :, :, ::1] dweights, bint accumulate, Place window, Py_ssize_t stride,
    Derivative derivative, float[::1] workspace,
):
    cdef Direct d = direct(dweights, window, stride)
    cdef Field source = field_of(x, x_box), delta = field_of(dy, dy_box)
    cdef float* panels = aligned(&workspace[0])
    cdef Prologue* before = prologue_of(derivative)
    with nogil:
        direct_backward_weights(
            &d, source, delta, &dweights[0, 0, 0, 0], accumulate,
            panels + WEIGHT_GROUP * up(delta.channels, 32), panels, before)


def winograd_elements(Py_ssize_t cells, Py_ssize_t channels, Py_ssize_t filters,
                      Py_ssize_t tiles, Py_ssize_t block, Py_ssize_t chunk,
                      bint adjoint=False):
    """Length of the workspace for so many tiles; `block` and `chunk` are the most tiles and
    filters at once. `adjoint`: of `winograd_scatter_box`."""
    cdef Winograd g
    block = dealt(tiles, block)
    if block == tiles:
        return 16 + set_up_few(&g, cells, channels, filters, block, adjoint, NULL)
    return 16 + set_up(&g, cells, channels, chunk, block, channels, chunk, NULL)


def rest_maps(Py_ssize_t cells):
    """The maps of input and output where a whole tile of 4 cells leaves 1, 2 or 3; nested lists."""
    return ([[rest_input[cells - 1][i][j] for j in range(cells + 2)] for i in range(cells + 2)],
            [[rest_output[cells - 1][i][j] for j in range(cells + 2)] for i in range(cells)])


cdef void correlate(
    Winograd* g, const Field* x, Field y, const Weights* w, const float[::1] biases,
    Epilogue* after, Prologue* before, Place window, Py_ssize_t cells, Py_ssize_t block,
    Py_ssize_t chunk, float* workspace,
) noexcept nogil:
    """All filters, whether all tiles fit into one block or not."""
    cdef Py_ssize_t first, count, filters = y.channels
    cdef bint few
    g.first_row = window[0]
    g.first_column = window[1]
    block = deal_tiles(g, cells, &y, block)
    few = block == g.tiles
    if few:
        chunk = filters
    for first from 0 <= first < filters by chunk:
        count = min(chunk, filters - first)
        if few:
            set_up_few(g, cells, x.channels, filters, block, False, workspace)
        else:
            set_up(g, cells, x.channels, count, block, x.channels, chunk, workspace)
        if biases is not None:
            memset(g.biases, 0, up(count, 32) * sizeof(float))
            memcpy(g.biases, &biases[first], count * sizeof(float))
            after.biases = g.biases
        if few:
            few_forward(g, x[0], &y, w, after, before)
        else:
            transform_weights(g, w, 0, first, count)
            winograd_forward(g, x, &y, after, before)
        y.cells += count


def winograd_forward_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] y, BoxOf y_box, Place window,
    const float[::1] biases, float slope, float[::1] workspace,
    Py_ssize_t cells, Py_ssize_t block, Py_ssize_t chunk,
):
    cdef Winograd g
    cdef Field source = field_of(x, x_box)
    cdef Epilogue after = epilogue(None, slope, False)
    cdef Weights w = Weights(&weights[0, 0, 0, 0], weights.shape[2], weights.shape[3], False,
                             False)
    cdef Field target = field_of(y, y_box)
    with nogil:
        correlate(&g, &source, target, &w, biases, &after, NULL, window, cells, block, chunk,
                  &workspace[0])


def winograd_backward_input_box(
    const float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] dx, BoxOf dx_box, Place window, bint add,
    Derivative derivative, float[::1] workspace,
    Py_ssize_t cells, Py_ssize_t block, Py_ssize_t chunk,
):
    """The forward pass of dy with the weights backwards and transposed."""
    cdef Winograd g
    cdef Field source = field_of(dy, dy_box)
    cdef Epilogue after = epilogue(None, 1, add)
    cdef Weights w = Weights(&weights[0, 0, 0, 0], weights.shape[2], weights.shape[3], True,
                             True)
    cdef Field target = field_of(dx, dx_box)
    cdef Prologue* before = prologue_of(derivative)
    with nogil:
        correlate(&g, &source, target, &w, None, &after, before, window, cells, block, chunk,
                  &workspace[0])


def winograd_scatter_box(
    const float[:, :, :, ::1] dy, BoxOf dy_box, const float[:, :, :, ::1] weights,
    float[:, :, :, ::1] dx, BoxOf dx_box, Place window, bint add,
    Derivative derivative, float[::1] workspace,
):
    """The adjoint of the forward pass with output tiles of 4x4 cells, all in one block.

    `window`: that of dy's first cell, in dx.
    """
    cdef Winograd g
    cdef Field source = field_of(dy, dy_box), target = field_of(dx, dx_box)
    cdef Weights w = Weights(&weights[0, 0, 0, 0], weights.shape[2], weights.shape[3], True,
                             False)
    cdef Prologue* before = prologue_of(derivative)
    with nogil:
        g.first_row = window[0]
        g.first_column = window[1]
        g.tiling = tiling(4, &source, True)
        g.tiles = g.tiling.spans.tiles
        set_up_few(&g, 4, source.channels, target.channels, g.tiles, True, &workspace[0])
        few_backward_input(&g, source, &target, &w, add, before)


cdef void correlate_gradients(
    Winograd* g, const Field* x, Field dy, float* dweights, bint accumulate,
    Prologue* before, Place window, Py_ssize_t cells, Py_ssize_t block, Py_ssize_t chunk,
    float* workspace,
) noexcept nogil:
    """All filters, whether all tiles fit into one block or not."""
    cdef Py_ssize_t first, count, filters = dy.channels
    g.first_row = window[0]
    g.first_column = window[1]
    block = deal_tiles(g, cells, &dy, block)
    if block == g.tiles:
        set_up_few(g, cells, x.channels, filters, block, False, workspace)
        few_backward_weights(g, x[0], &dy, dweights, accumulate, before)
        return
    if before != NULL and chunk < filters:
        # A chunk sees only its own channels.
        derive_until(before, &dy, dy.images, 0)
        before = NULL
    for first from 0 <= first < filters by chunk:
        count = min(chunk, filters - first)
        set_up(g, cells, x.channels, count, block, x.channels, chunk, workspace)
        winograd_backward_weights(g, x, &dy, before)
        transform_gradient(g, count, dweights + first, x.channels * filters, filters,
                           accumulate)
        dy.cells += count


def winograd_backward_weights_box(
    const float[:, :, :, ::1] x, BoxOf x_box, const float[:, :, :, ::1] dy, BoxOf dy_box,
    float[:, :, :, ::1] dweights, bint accumulate, Place window, Derivative derivative,
    float[::1] workspace, Py_ssize_t cells, Py_ssize_t block, Py_ssize_t chunk,
):
    cdef Winograd g
    cdef Field source = field_of(x, x_box), delta = field_of(dy, dy_box)
    cdef Prologue* before = prologue_of(derivative)
    with nogil:
        correlate_gradients(&g, &source, delta, &dweights[0, 0, 0, 0], accumulate, before,
                            window, cells, block, chunk, &workspace[0])


include "statistics.pxi"
include "depthwise.pxi"
