"""What every layer is given, and what it offers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mpitile.geometry.box import EMPTY, Box
from mpitile.kernels.tile import Tile
from mpitile.network import spec


@dataclass(frozen=True)
class Site:
    """Where a layer works: its description and its part of the tensors.

    Attributes
    ----------
    layer : what to compute.
    box : the output cells to compute, halo of later layers included.
    owned : the output cells that this tile owns, a part of `box`.
    inputs : tiles of the tensors it reads.
    input_deltas : tiles of their gradients; None where none is wanted.
    output, output_delta : tiles of the tensor it writes, and of its gradient.
    stored : the output cells that arrays shaped like the output hold.
    parameters : arrays by name; trained ones and running statistics.
    gradients : arrays of the trained ones' gradients, which layers add to.
    workspace : scratch memory of the kernels, used by one layer after the other.
    scratch : scratch memory of layers that work band by band, used likewise.
    kept : arrays, shaped like the output, whose contents last from forward to
        backward; by the names of `mpitile.network.kept`.
    fresh : whether this layer's `backward_input` is the first to write to its input
        delta, and has to overwrite it.
    algorithms : of a convolution's operations, by name; none for the default.
    """

    layer: spec.Layer
    box: Box
    owned: Box
    inputs: tuple[Tile, ...]
    input_deltas: tuple[Tile | None, ...]
    output: Tile
    output_delta: Tile | None
    stored: Box = EMPTY
    parameters: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)
    workspace: np.ndarray = field(default_factory=lambda: np.empty(0))
    scratch: np.ndarray = field(default_factory=lambda: np.empty(0))
    kept: Mapping[str, np.ndarray] = field(default_factory=dict)
    fresh: bool = False
    algorithms: Mapping[str, str] = field(default_factory=dict)


def kept_tile(site: Site, name: str) -> Tile:
    """What a site keeps under a name, as a tile of the layer's output."""
    shape = site.layer.output_shape
    return Tile(site.kept[name], site.stored, shape.height, shape.width)


@dataclass(frozen=True)
class Step:
    """What is the same for all layers during one forward and backward pass.

    Attributes
    ----------
    training : whether batch statistics, dropout and losses are wanted.
    again : whether layers compute forward again for the sake of backward: with the
        statistics of the first time, without reductions.
    reduce : adds up a float64 array over all ranks, in place. Every rank calls it
        equally often: also for empty boxes.
    images : number of images of this pass over all replicas.
    first_image : the global number of the first image in this rank's arrays.
    seen : how many images training has seen, this pass included.
    key : seed of whatever is drawn in this pass.
    overwrite : whether backward takes the place of what the gradients held, as in the first
        of several passes that add up.
    truths : for each image of this rank's arrays, what it shows: boxes (n, 5) of
        x, y, width, height and class for detection, a class number otherwise.
    """

    training: bool
    reduce: Callable[[np.ndarray], None]
    images: int
    first_image: int = 0
    seen: int = 0
    key: int = 0
    overwrite: bool = False
    truths: Sequence = ()
    again: bool = False


class LayerWork(Protocol):
    """A layer at its site.

    `backward_input` runs before `backward_weights` and leaves in the output delta
    whatever the latter needs. Both add to their targets. Deltas are partial: the
    sum over ranks is the true one.
    """

    def forward(self, step: Step) -> None: ...

    def backward_input(self, step: Step) -> None: ...

    def backward_weights(self, step: Step) -> None: ...


class Plain:
    """A layer without weights."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def backward_weights(self, step: Step) -> None:
        """Nothing to do."""


class Loss(Plain):
    """A layer that the loss is taken at. `loss` is this rank's part of the sum over images."""

    loss: float = 0.0
