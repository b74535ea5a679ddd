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

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import _conv, _fast, depthwise
from mpitile.kernels.checks import first_window, local, part
from mpitile.kernels.tile import Tile

ALGORITHMS = ("im2row", "direct", "winograd2", "winograd4")
EXACT = ("im2row", "direct")
DEPTHWISE = "depthwise"
OPERATIONS = ("forward", "backward_input", "backward_weights")

PANEL_LIMIT = 2**18
# Transformed weights of one chunk of filters, in elements: 5 MB.
CHUNK_LIMIT = 36 * 256 * 128
# Tiles of a block: few where channels are few, so that the block stays in L2.
FEW_TILES, MANY_TILES = 42, 56
FEW_CHANNELS = 192
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


def _winograd(algorithm: str, channels: int, filters: int) -> _Winograd:
    cells = 2 if algorithm == "winograd2" else 4
    places = (cells + 2) ** 2
    chunks = -(-filters // max(CHUNK_LIMIT // (places * channels), 32))
    chunk = -(-filters // chunks // 32) * 32
    block = (FEW_TILES if channels + filters <= FEW_CHANNELS else MANY_TILES) * (4 // cells)
    return _Winograd(cells, block, min(chunk, filters))


@cache
def workspace_elements(
    algorithm: str, kernel: tuple[int, int], channels: int, filters: int, stride: int = 1
) -> int:
    """Elements of the workspace that serves all three operations."""
    if algorithm == "im2row":
        return max(PANEL_LIMIT, kernel[0] * kernel[1] * channels)
    if algorithm == "direct":
        return _fast.direct_elements(*kernel, channels, filters, stride)
    return max(
        _fast.winograd_elements(w.cells, source, target, w.block, w.chunk)
        for source, target in ((channels, filters), (filters, channels))
        for w in [_winograd(algorithm, source, target)]
    )


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
        w = _winograd(algorithm, *weights.shape[2:])
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


def _reach(dx: Tile, box: Box, kernel: tuple[int, int], padding: int) -> Box:
    """The cells of `dx` that windows of the output box cover, at stride 1."""
    return Box(
        box.y0 - padding,
        box.y1 - padding + kernel[0] - 1,
        box.x0 - padding,
        box.x1 - padding + kernel[1] - 1,
    ).intersect(dx.box)


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
    reach = _reach(dx, box, (height, width), padding)
    if not accumulate:
        dx.clear_around(reach)
    if reach.empty:
        if derivative:
            derivative.apply(dy)
        return
    window = (
        reach.y0 + padding - height + 1 - box.y0,
        reach.x0 + padding - width + 1 - box.x0,
    )
    call: Callable[..., None] = _fast.direct_backward_input_box
    cut: tuple[int, ...] = ()
    if algorithm != "direct":
        w = _winograd(algorithm, filters, channels)
        call, cut = _fast.winograd_backward_input_box, (w.cells, w.block, w.chunk)
    call(
        dy.array,
        part(dy, box),
        weights,
        dx.array,
        part(dx, reach),
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
        w = _winograd(algorithm, *dweights.shape[2:])
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
