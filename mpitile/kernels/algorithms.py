"""The ways to compute a convolution: what each can do, what memory it wants, its calls.

"im2row"
    Panels of patches and BLAS; any shape, float32 and float64.
"direct"
    SIMD products of the windows in place. Float32; backward-input at stride 1.
"winograd2", "winograd4"
    Winograd's algorithm with output tiles of 2x2 or 4x4 cells, for 3x3 kernels at stride 1
    in float32: 2.25 and 4 times fewer multiplications. Largest errors against float64,
    relative to the tensor's largest entry: about 1e-6 and 2e-5.

"depthwise"
    SIMD sums of a kernel for each channel; for convolutions in as many groups as channels,
    and chosen for all of them. Other convolutions in groups are im2row's.

The result of "direct" and "depthwise" does not depend on where a tile begins: the sum of each
output cell is taken in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _conv, _fast, depthwise
from mpitile.kernels.checks import first_window, local, part
from mpitile.kernels.tile import Tile

if TYPE_CHECKING:
    from mpitile.kernels.choice import Shape

ALGORITHMS = ("im2row", "direct", "winograd2", "winograd4")
EXACT = ("im2row", "direct")
DEPTHWISE = "depthwise"
OPERATIONS = ("forward", "backward_input", "backward_weights")

# Elements of im2row's panels; of those of large gradients, all of which are read and written
# anew for each panel.
PANEL_LIMIT, GRADIENT_PANEL_LIMIT = 2**18, 2**22
LARGE_GRADIENT = 2**21
# Transformed weights of one chunk of filters, in elements: 5 MB; and its filters.
CHUNK_LIMIT = 36 * 256 * 128
MOST_FILTERS = 256
# Tiles of a block: few where channels are few, so that the block stays in L2.
FEW_TILES, MANY_TILES = 42, 56
FEW_CHANNELS = 192
# As many blocks' tiles may be one block.
MOST_BLOCKS = 2
LARGEST_DIRECT_KERNEL = 11


def possible(
    algorithm: str, operation: str, kernel: tuple[int, int], stride: int, dtype: np.dtype
) -> bool:
    """Whether an algorithm can do an operation of this kernel size, stride and dtype."""
    if algorithm == "im2row":
        return True
    if dtype != np.float32:
        return False
    if algorithm == "direct":
        return max(kernel) <= LARGEST_DIRECT_KERNEL and (
            stride == 1 or operation != "backward_input"
        )
    return tuple(kernel) == (3, 3) and stride == 1


@dataclass(frozen=True)
class _Winograd:
    """How the work is cut: cells of an output tile's side, tiles a block, filters a chunk."""

    cells: int
    block: int
    chunk: int


def _winograd(algorithm: str, channels: int, filters: int, tiles: int) -> _Winograd:
    cells = 2 if algorithm == "winograd2" else 4
    places = (cells + 2) ** 2
    most = min(max(CHUNK_LIMIT // (places * channels), 32), MOST_FILTERS)
    chunks = -(-filters // most)
    chunk = min(-(-filters // chunks // 32) * 32, filters)
    block = (FEW_TILES if channels + filters <= FEW_CHANNELS else MANY_TILES) * (4 // cells)
    if block < tiles <= MOST_BLOCKS * block:
        # In one block weights are transformed in pieces. Where that takes less memory than
        # chunks of filters it takes no more time, and mostly less.
        one, several = (
            _fast.winograd_elements(cells, channels, filters, tiles, size, chunk)
            for size in (tiles, block)
        )
        block = tiles if one < several else block
    return _Winograd(cells, block, chunk)


def _tiles(algorithm: str, images: int, rows: int, columns: int) -> int:
    """How many output tiles cells make."""
    cells = 2 if algorithm == "winograd2" else 4
    return images * -(-rows // cells) * -(-columns // cells)


@cache
def workspace_elements(algorithm: str, shape: Shape, written: tuple[int, int]) -> int:
    """Elements of the workspace that a call wants.

    Parameters
    ----------
    shape : what the call computes.
    written : rows and columns of what backward-input writes to.
    """
    kernel = (shape.kernel_height, shape.kernel_width)
    rows, columns = shape.rows, shape.columns
    if algorithm == "im2row":
        return _panel_elements(shape)
    if algorithm == "direct":
        return _fast.direct_elements(
            *kernel, shape.channels, shape.filters, shape.stride, rows, columns
        )
    source, target = shape.channels, shape.filters
    if shape.operation == "backward_input":
        source, target, (rows, columns) = target, source, written
    tiles = max(_tiles(algorithm, shape.images, rows, columns), 1)
    w = _winograd(algorithm, source, target, tiles)
    return _fast.winograd_elements(w.cells, source, target, tiles, w.block, w.chunk)


def _panel_elements(shape: Shape) -> int:
    patch = shape.kernel_height * shape.kernel_width * shape.channels
    limit = PANEL_LIMIT
    if shape.operation == "backward_weights" and patch * shape.filters > LARGE_GRADIENT:
        limit = GRADIENT_PANEL_LIMIT
    return max(patch, min(limit, patch * shape.images * shape.rows * shape.columns))


def _whole(tile: Tile) -> tuple[int, int, int, int]:
    return (0, 0, tile.box.height, tile.box.width)


class Derivative:
    """The activation's derivative, to be multiplied into a box of dy as it is first read.

    `slope` is that of outputs not above zero. `sums`, float64 (K,) or None, gets the
    products' sums over images and cells added.
    """

    def __init__(self, y: Tile, box: Box, slope: float, sums: np.ndarray | None) -> None:
        self._box = box
        row = None if sums is None else np.empty(len(sums), np.float32)
        self.work = _fast.Derivative(y.array, part(y, box), slope, row, sums)

    def apply(self, dy: Tile) -> None:
        """Multiply it in at once."""
        self.work.apply(dy.array, part(dy, self._box))


def _work(derivative: Derivative | None) -> _fast.Derivative | None:
    return derivative.work if derivative else None


def forward(
    algorithm: str,
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    biases: np.ndarray | None,
    slope: float,
) -> None:
    """Write the cells `box` of `y`; im2row and float64 know neither biases nor slope."""
    if algorithm == DEPTHWISE:
        depthwise.forward(x, weights, y, box, stride, padding, biases, slope)
        return
    window = first_window(x, box, stride, padding)
    if algorithm == "im2row":
        _conv.forward(
            x.array,
            weights,
            y.array,
            workspace,
            *local(y, box),
            box.height,
            box.width,
            *window,
            stride,
            padding,
        )
    elif algorithm == "direct":
        _fast.direct_forward_box(
            x.array,
            _whole(x),
            weights,
            y.array,
            part(y, box),
            window,
            stride,
            biases,
            slope,
            workspace,
        )
    else:
        tiles = _tiles(algorithm, len(y.array), box.height, box.width)
        w = _winograd(algorithm, *weights.shape[2:], tiles)
        _fast.winograd_forward_box(
            x.array,
            _whole(x),
            weights,
            y.array,
            part(y, box),
            window,
            biases,
            slope,
            workspace,
            w.cells,
            w.block,
            w.chunk,
        )


def reach(tile: Box, box: Box, kernel: tuple[int, int], padding: int) -> Box:
    """The cells of an input's tile that windows of the output box cover, at stride 1."""
    return Box(
        box.y0 - padding,
        box.y1 - padding + kernel[0] - 1,
        box.x0 - padding,
        box.x1 - padding + kernel[1] - 1,
    ).intersect(tile)


def backward_input(
    algorithm: str,
    dy: Tile,
    box: Box,
    weights: np.ndarray,
    dx: Tile,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    derivative: Derivative | None,
    accumulate: bool,
) -> None:
    """Add to `dx` or overwrite it: at stride 1 the product of dy with the weights backwards."""
    if algorithm == DEPTHWISE:
        if derivative:
            derivative.apply(dy)
        depthwise.backward_input(dy, box, weights, dx, stride, padding, accumulate)
        return
    if algorithm == "im2row":
        if derivative:
            derivative.apply(dy)
        if not accumulate:
            dx.array[...] = 0
        _conv.backward_input(
            dy.array,
            weights,
            dx.array,
            workspace,
            *local(dy, box),
            box.height,
            box.width,
            *first_window(dx, box, stride, padding),
            stride,
            padding,
        )
        return
    height, width, channels, filters = weights.shape
    covered = reach(dx.box, box, (height, width), padding)
    if not accumulate:
        dx.clear_around(covered)
    if covered.empty:
        if derivative:
            derivative.apply(dy)
        return
    window = (
        covered.y0 + padding - height + 1 - box.y0,
        covered.x0 + padding - width + 1 - box.x0,
    )
    call: Callable[..., None] = _fast.direct_backward_input_box
    cut: tuple[int, ...] = ()
    if algorithm != "direct":
        tiles = _tiles(algorithm, len(dx.array), covered.height, covered.width)
        w = _winograd(algorithm, filters, channels, tiles)
        call, cut = _fast.winograd_backward_input_box, (w.cells, w.block, w.chunk)
    call(
        dy.array,
        part(dy, box),
        weights,
        dx.array,
        part(dx, covered),
        window,
        accumulate,
        _work(derivative),
        workspace,
        *cut,
    )


def backward_weights(
    algorithm: str,
    x: Tile,
    dy: Tile,
    box: Box,
    dweights: np.ndarray,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    derivative: Derivative | None,
    accumulate: bool,
) -> None:
    """Add to `dweights` or overwrite it."""
    if algorithm == DEPTHWISE:
        if derivative:
            derivative.apply(dy)
        depthwise.backward_weights(x, dy, box, dweights, stride, padding, accumulate)
        return
    window = first_window(x, box, stride, padding)
    if algorithm == "im2row":
        if derivative:
            derivative.apply(dy)
        if not accumulate:
            dweights[...] = 0
        _conv.backward_weights(
            x.array,
            dy.array,
            dweights,
            workspace,
            *local(dy, box),
            box.height,
            box.width,
            *window,
            stride,
            padding,
        )
    elif algorithm == "direct":
        _fast.direct_backward_weights_box(
            x.array,
            _whole(x),
            dy.array,
            part(dy, box),
            dweights,
            accumulate,
            window,
            stride,
            _work(derivative),
            workspace,
        )
    else:
        tiles = _tiles(algorithm, len(dy.array), box.height, box.width)
        w = _winograd(algorithm, *dweights.shape[2:], tiles)
        _fast.winograd_backward_weights_box(
            x.array,
            _whole(x),
            dy.array,
            part(dy, box),
            dweights,
            accumulate,
            window,
            _work(derivative),
            workspace,
            w.cells,
            w.block,
            w.chunk,
        )
