"""The ways to compute a convolution: what each can do, what memory it wants, its calls.

"im2row"
    Panels of patches and BLAS; any shape, float32 and float64.
"direct"
    SIMD products of the windows in place. Float32; backward-input at stride 1.
"winograd2", "winograd4"
    Winograd's algorithm with output tiles of 2x2 or 4x4 cells, for 3x3 kernels at stride 1
    in float32: 2.25 and 4 times fewer multiplications. Tiles of 4x4 cells at the box's bottom
    and right are computed as the cells that are left there.
    Largest errors against float64, relative to the tensor's largest entry: about 1e-6 and 2e-5.

"depthwise"
    SIMD sums of a kernel for each channel; for convolutions in as many groups as channels,
    and chosen for all of them. Other convolutions in groups are im2row's.

The result of "direct" and "depthwise" does not depend on where a tile begins: the sum of each
output cell is taken in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _conv, _fast, depthwise
from mpitile.kernels.checks import first_window, local, part
from mpitile.kernels.prepared import Run, clear, in_turn
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


def _adjoint(
    algorithm: str, channels: int, filters: int, images: int, rows: int, columns: int
) -> bool:
    """Whether backward-input goes by the tiles of a box of dy: with 4x4 cells, all in one block.

    y = A' [(G w G') * (B' x B)] A is linear in x. Its adjoint has as many tiles as the forward
    pass; those of the box that dy reaches are as many or more.
    """
    if algorithm != "winograd4":
        return False
    tiles = _tiles(algorithm, images, rows, columns)
    return _winograd(algorithm, filters, channels, tiles).block >= tiles


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
    adjoint = False
    if shape.operation == "backward_input":
        adjoint = _adjoint(algorithm, source, target, shape.images, rows, columns)
        rows, columns = (rows, columns) if adjoint else written
        source, target = target, source
    tiles = max(_tiles(algorithm, shape.images, rows, columns), 1)
    w = _winograd(algorithm, source, target, tiles)
    return _fast.winograd_elements(w.cells, source, target, tiles, w.block, w.chunk, adjoint)


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

    `slope` is that of outputs not above zero. `total`, (K,) or None, gets the products' sums
    over images and cells added; they are taken in float64.
    """

    def __init__(self, y: Tile, box: Box, slope: float, total: np.ndarray | None) -> None:
        self._box, self._total = box, total
        self._sums = row = None
        if total is not None:
            self._sums, row = np.empty(len(total)), np.empty(len(total), np.float32)
        self._arguments = (y.array, part(y, box), slope, row, self._sums)

    def begin(self) -> _fast.Derivative:
        """What one reader of dy is given; `end` follows."""
        if self._sums is not None:
            self._sums[...] = 0
        return _fast.Derivative(*self._arguments)

    def end(self) -> None:
        """The reader is done."""
        if self._total is not None:
            self._total += self._sums

    def prepare(self, dy: Tile) -> Run:
        """Multiply it in, where nobody else reads dy meanwhile."""
        cells = part(dy, self._box)

        def run() -> None:
            self.begin().apply(dy.array, cells)
            self.end()

        return run


def _before(derivative: Derivative | None, dy: Tile) -> tuple[Run, ...]:
    return (derivative.prepare(dy),) if derivative else ()


def _reading(
    call: Callable[..., None],
    before: tuple[Any, ...],
    derivative: Derivative | None,
    after: tuple[Any, ...],
) -> Run:
    """A call that takes a derivative between its other arguments."""
    if not derivative:
        return partial(call, *before, None, *after)

    def run() -> None:
        call(*before, derivative.begin(), *after)
        derivative.end()

    return run


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
) -> Run:
    """Writes the cells `box` of `y`; im2row and float64 know neither biases nor slope."""
    if algorithm == DEPTHWISE:
        return partial(depthwise.forward, x, weights, y, box, stride, padding, biases, slope)
    window = first_window(x, box, stride, padding)
    if algorithm == "im2row":
        return partial(
            _conv.forward,
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
    if algorithm == "direct":
        return partial(
            _fast.direct_forward_box,
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
    tiles = _tiles(algorithm, len(y.array), box.height, box.width)
    w = _winograd(algorithm, *weights.shape[2:], tiles)
    return partial(
        _fast.winograd_forward_box,
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
) -> Run:
    """Adds to `dx` or overwrites it: at stride 1 the product of dy with the weights backwards.

    Where tiles are few, winograd4 is the adjoint of its forward pass instead.
    """
    if algorithm == DEPTHWISE:
        rest = (stride, padding, accumulate)
        call = partial(depthwise.backward_input, dy, box, weights, dx, *rest)
        return in_turn(*_before(derivative, dy), call)
    if algorithm == "im2row":
        cleared = () if accumulate else (clear(dx.array),)
        call = partial(
            _conv.backward_input,
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
        return in_turn(*_before(derivative, dy), *cleared, call)
    height, width, channels, filters = weights.shape
    covered = reach(dx.box, box, (height, width), padding)
    cleared = () if accumulate else (clear(*dx.around(covered)),)
    if covered.empty:
        return in_turn(*cleared, *_before(derivative, dy))
    window = (
        covered.y0 + padding - height + 1 - box.y0,
        covered.x0 + padding - width + 1 - box.x0,
    )
    loops: Callable[..., None] = _fast.direct_backward_input_box
    cut: tuple[int, ...] = ()
    if _adjoint(algorithm, channels, filters, len(dx.array), box.height, box.width):
        window = (box.y0 - padding - covered.y0, box.x0 - padding - covered.x0)
        loops = _fast.winograd_scatter_box
    elif algorithm != "direct":
        tiles = _tiles(algorithm, len(dx.array), covered.height, covered.width)
        w = _winograd(algorithm, filters, channels, tiles)
        loops, cut = _fast.winograd_backward_input_box, (w.cells, w.block, w.chunk)
    written = (dx.array, part(dx, covered), window, accumulate)
    before = (dy.array, part(dy, box), weights, *written)
    return in_turn(*cleared, _reading(loops, before, derivative, (workspace, *cut)))


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
) -> Run:
    """Adds to `dweights` or overwrites it."""
    if algorithm == DEPTHWISE:
        rest = (stride, padding, accumulate)
        call = partial(depthwise.backward_weights, x, dy, box, dweights, *rest)
        return in_turn(*_before(derivative, dy), call)
    window = first_window(x, box, stride, padding)
    if algorithm == "im2row":
        cleared = () if accumulate else (clear(dweights),)
        call = partial(
            _conv.backward_weights,
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
        return in_turn(*_before(derivative, dy), *cleared, call)
    before = (x.array, _whole(x), dy.array, part(dy, box), dweights, accumulate, window)
    if algorithm == "direct":
        loops = _fast.direct_backward_weights_box
        return _reading(loops, (*before, stride), derivative, (workspace,))
    tiles = _tiles(algorithm, len(dy.array), box.height, box.width)
    w = _winograd(algorithm, *dweights.shape[2:], tiles)
    after = (workspace, w.cells, w.block, w.chunk)
    return _reading(_fast.winograd_backward_weights_box, before, derivative, after)
