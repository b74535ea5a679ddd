"""Cross-correlation of tiles and its two gradients.

Weights are (kernel height, kernel width, C / groups, K): channels and filters are cut into
`groups`, one after the other, and each group's filters see its channels alone. An output
cell's window starts at ``cell * stride - padding``; cells outside the tensor count as zero. The
workspace is a 1-D array of the tiles' dtype, at least one patch (of one group) long;
`workspace_size` tells how much lets the fastest algorithms run. `algorithm` is one of
`mpitile.kernels.algorithms`, or None for the default of `mpitile.kernels.choice`; where it
cannot do the operation or the workspace is too short for it, im2row takes its place; groups
have their own (`mpitile.kernels.depthwise`, im2row). The same call gives the same bits.

Those named `prepare_` return what does the work, at once or as often as it is called; the
arrays' contents at that time count, and all checks are made before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mpitile.geometry.box import Box
from mpitile.kernels import activation as activations
from mpitile.kernels import algorithms, depthwise
from mpitile.kernels.activation import SLOPES
from mpitile.kernels.algorithms import ALGORITHMS, DEPTHWISE, Derivative
from mpitile.kernels.checks import (
    check_array,
    check_channels,
    check_inside,
    check_tile,
    window,
)
from mpitile.kernels.choice import Shape, choose
from mpitile.kernels.prepared import Run, at_once, clear, in_turn
from mpitile.kernels.tile import Tile


@dataclass(frozen=True, slots=True)
class Call:
    """One operation on a box, as far as it decides what memory it wants.

    Attributes
    ----------
    kernel : (kernel height, kernel width, C / groups, K).
    images : of the tiles.
    box : the output cells.
    tile : the cells that the input's tile holds.
    """

    operation: str
    kernel: tuple[int, int, int, int]
    stride: int
    padding: int
    groups: int
    images: int
    box: Box
    tile: Box

    @property
    def shape(self) -> Shape:
        """What algorithms are chosen by, where no other shape is."""
        size = (self.images, self.box.height, self.box.width)
        return Shape(self.operation, *self.kernel, self.stride, *size)


def workspace_size(call: Call, names: Iterable[str]) -> int:
    """Elements of the workspace that a call wants for any of these algorithms.

    Convolutions in groups have their own, and want no more than that.
    """
    height, width, channels, _ = call.kernel
    patch = height * width * channels
    if call.box.empty or not call.images:
        return patch
    if call.groups > 1:
        names = () if depthwise.possible(call.kernel, call.groups) else ("im2row",)
    covered = algorithms.reach(call.tile, call.box, (height, width), call.padding)
    written = (covered.height, covered.width)
    wanted = (algorithms.workspace_elements(name, call.shape, written) for name in names)
    return max([patch, *wanted])


def _check(
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    groups: int,
) -> None:
    check_tile("conv input", x)
    check_tile("conv output", y, like=x)
    if weights.ndim != 4:
        raise ValueError(f"conv weights: expected 4 dimensions, got shape {weights.shape}")
    kernel_height, kernel_width, channels, filters = weights.shape
    check_array("conv weights", weights, weights.shape, x.array.dtype)
    if groups < 1 or filters % groups:
        raise ValueError(f"conv: expected filters that groups divide, got {filters} and {groups}")
    check_channels("conv input", x, channels * groups)
    check_channels("conv output", y, filters)
    if stride < 1 or padding < 0:
        raise ValueError(f"conv: expected stride >= 1 and padding >= 0, got {stride}, {padding}")
    check_inside("conv output", y, box)
    check_inside("conv input", x, window(x, box, (kernel_height, kernel_width), stride, padding))
    patch = kernel_height * kernel_width * channels
    check_array("conv workspace", workspace, (max(workspace.size, patch),), x.array.dtype)


def _algorithm(
    wanted: str | None,
    operation: str,
    x: Tile,
    weights: np.ndarray,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    groups: int,
) -> str:
    if wanted is not None and wanted not in ALGORITHMS:
        raise ValueError(f"conv: expected one of {', '.join(ALGORITHMS)}, got {wanted!r}")
    if groups > 1:
        return DEPTHWISE if depthwise.possible(weights.shape, groups) else "im2row"
    call = Call(operation, weights.shape, stride, padding, groups, len(x.array), box, x.box)
    if wanted is None:
        wanted = choose(call.shape, weights.dtype)
    if not algorithms.possible(wanted, operation, weights.shape[:2], stride, weights.dtype):
        return "im2row"
    if wanted != "im2row" and workspace.size < workspace_size(call, (wanted,)):
        return "im2row"
    return wanted


def prepare_forward(
    x: Tile,
    weights: np.ndarray,
    y: Tile,
    box: Box,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    *,
    biases: np.ndarray | None = None,
    activation: str = "linear",
    algorithm: str | None = None,
    groups: int = 1,
) -> Run:
    """What overwrites the cells `box` of `y` with ``f(cross-correlation of x + biases)``.

    `biases` is (K,) of the tiles' dtype, or None for none; `activation` as in
    `mpitile.kernels.activation`. Both are applied to blocks that are still in cache.
    """
    activations.check_kind(activation)
    _check(x, weights, y, box, stride, padding, workspace, groups)
    if biases is not None:
        check_array("biases", biases, (weights.shape[3],), weights.dtype)
    if box.empty or not len(y.array):
        return in_turn()
    call = (x, weights, box, stride, padding, workspace, groups)
    name = _algorithm(algorithm, "forward", *call)
    fused = name != "im2row" and activation in SLOPES and y.array.dtype == np.float32
    run = algorithms.forward(
        name,
        x,
        weights,
        y,
        box,
        stride,
        padding,
        workspace,
        biases if fused else None,
        SLOPES[activation] if fused else 1.0,
    )
    if fused:
        return run
    return in_turn(run, partial(activations.forward, y, box, biases, activation))


def _derivative(
    dy: Tile, box: Box, output: Tile | None, activation: str, bias_gradient: np.ndarray | None
) -> tuple[tuple[Run, ...], Derivative | None]:
    """What is to be done to `dy` before it is read, and in float32 while it is."""
    activations.check_kind(activation)
    if output is None:
        if activation != "linear":
            raise ValueError("conv: the activation's derivative needs its output")
        output = dy
    check_tile("activation output", output, like=dy)
    check_channels("activation output", output, dy.array.shape[3])
    check_inside("activation output", output, box)
    if bias_gradient is not None:
        activations.check_bias_gradient(dy, bias_gradient)
    if activation == "linear" and bias_gradient is None:
        return (), None
    if dy.array.dtype == np.float32 and activation in SLOPES:
        return (), Derivative(output, box, SLOPES[activation], bias_gradient)
    before: tuple[Run, ...] = (activations.prepare_backward(dy, output, box, activation),)
    if bias_gradient is not None:
        before += (activations.prepare_bias_gradient(dy, box, bias_gradient),)
    return before, None


def prepare_backward_input(
    dy: Tile,
    box: Box,
    weights: np.ndarray,
    dx: Tile,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    *,
    output: Tile | None = None,
    activation: str = "linear",
    bias_gradient: np.ndarray | None = None,
    accumulate: bool = True,
    algorithm: str | None = None,
    groups: int = 1,
) -> Run:
    """What adds to `dx` what the cells `box` of `dy` give back.

    None of it falls outside the tensor. With an `activation` and its `output`, `dy` is first
    multiplied by the derivative, in place, and with `bias_gradient` (K,) its sums are added
    there: both while `dy` is read anyway. Ask for this in one of the two backward operations
    only. Without `accumulate` the result takes the place of all that `dx` held.
    """
    _check(dx, weights, dy, box, stride, padding, workspace, groups)
    if box.empty or not len(dy.array):
        return in_turn() if accumulate else clear(dx.array)
    before, derivative = _derivative(dy, box, output, activation, bias_gradient)
    call = (dx, weights, box, stride, padding, workspace, groups)
    name = _algorithm(algorithm, "backward_input", *call)
    run = algorithms.backward_input(
        name, dy, box, weights, dx, stride, padding, workspace, derivative, accumulate
    )
    return in_turn(*before, run)


def prepare_backward_weights(
    x: Tile,
    dy: Tile,
    box: Box,
    dweights: np.ndarray,
    stride: int,
    padding: int,
    workspace: np.ndarray,
    *,
    output: Tile | None = None,
    activation: str = "linear",
    bias_gradient: np.ndarray | None = None,
    accumulate: bool = True,
    algorithm: str | None = None,
    groups: int = 1,
) -> Run:
    """What adds to `dweights` the gradient that the cells `box` of `dy` cause.

    `output`, `activation` and `bias_gradient` are as in `backward_input`, for layers that
    have no use for that. Without `accumulate` the gradient takes the place of what
    `dweights` held.
    """
    _check(x, dweights, dy, box, stride, padding, workspace, groups)
    if box.empty or not len(dy.array):
        return in_turn() if accumulate else clear(dweights)
    before, derivative = _derivative(dy, box, output, activation, bias_gradient)
    call = (x, dweights, box, stride, padding, workspace, groups)
    name = _algorithm(algorithm, "backward_weights", *call)
    run = algorithms.backward_weights(
        name, x, dy, box, dweights, stride, padding, workspace, derivative, accumulate
    )
    return in_turn(*before, run)


forward = at_once(prepare_forward)
backward_input = at_once(prepare_backward_input)
backward_weights = at_once(prepare_backward_weights)
