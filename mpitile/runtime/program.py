"""A rank's part of a network, ready to run: tiles, layers, exchanges, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpitile.comm.exchange import Exchange
from mpitile.comm.topology import Topology
from mpitile.geometry.box import Box
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.choice import Choices
from mpitile.kernels.tile import Tile
from mpitile.layers.base import LayerWork, Loss, Site, Step
from mpitile.layers.classification import SumOfSquares
from mpitile.layers.registry import is_loss, make_layer, overwrites, workspace_elements
from mpitile.network.spec import Layer
from mpitile.plan.partition import Partition, TilePart
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.shapes import layer_shapes
from mpitile.runtime.stopwatch import Stopwatch

Observer = Callable[[int, Tile], None]


@dataclass(frozen=True)
class _Group:
    """A fused group: what is fetched at its start, then its layers in order."""

    exchange: Exchange
    works: tuple[tuple[int, LayerWork], ...]


class Program:
    """Forward and backward passes of one rank. Making one and every pass are collective.

    All memory of tensor size is allocated here.

    Parameters
    ----------
    partition : the network and its plan.
    topology : this rank's place.
    parameters : weights, and where gradients are added.
    images : images of each pass on this rank's team.
    training : whether backward passes will be run.
    input_gradient : whether the gradient of the image is wanted too.
    choices : of the convolutions' algorithms, the same on all ranks.

    Attributes
    ----------
    part : this rank's boxes.
    values, deltas : by tensor number, the tiles of each tensor and of its gradient.
    network, parameters : as given.
    stopwatch : seconds spent waiting for halos ("halo") and sums ("reduce").
    bytes : allocated bytes by kind.
    """

    def __init__(
        self,
        partition: Partition,
        topology: Topology,
        parameters: Parameters,
        images: int,
        training: bool = True,
        input_gradient: bool = False,
        choices: Choices | None = None,
    ) -> None:
        self.network = partition.network
        self.part: TilePart = partition.part(topology.tile)
        self.stopwatch = Stopwatch()
        self.bytes: Counter[str] = Counter()
        self.images = images
        self.parameters = parameters
        self._topology = topology
        self._choices = choices or Choices()
        self._grid = partition.plan.grid
        self._dtype = parameters.values.dtype
        self._training = training
        first_delta = 0 if input_gradient else 1
        tensors = range(len(self.network.shapes))
        self.values = {t: self._tile(t, "images" if t == 0 else "activations") for t in tensors}
        self.deltas = {t: self._tile(t, "deltas") for t in tensors[first_delta:] if training}
        elements = workspace_elements(parameters.specs)
        self._workspace = self._allocate("workspace", (elements,), self._dtype)
        self._groups = tuple(self._group(number) for number in range(len(self.part.groups)))
        for kind, array in (
            ("weights", parameters.values),
            ("weights", parameters.running),
            ("gradients", parameters.gradients),
        ):
            self.bytes[kind] += array.nbytes

    @property
    def loss(self) -> float:
        """This rank's part of the latest pass's loss, summed over images."""
        works = (work for group in self._groups for _, work in group.works)
        return sum(work.loss for work in works if isinstance(work, Loss))

    def forward(self, step: Step) -> None:
        """Compute this rank's cells of every tensor from those of the image."""
        step = replace(step, reduce=self._timed(step.reduce))
        for group in self._groups:
            with self.stopwatch.measure("halo"):
                group.exchange.begin_forward()
                group.exchange.end_forward()
            for _, work in group.works:
                work.forward(step)

    def backward(self, step: Step, observe: Observer | None = None) -> None:
        """Add this rank's part of the gradients of all parameters, after `forward`.

        Parameters
        ----------
        observe : called with each tensor's number and partial gradient when it is
            complete; the sum over ranks is the gradient.
        """
        step = replace(step, reduce=self._timed(step.reduce))
        for tensor, tile in self.deltas.items():
            if not self._fresh(tensor):
                tile.array[...] = 0
        for group in reversed(self._groups):
            self._backward_group(group, step, observe)
        if observe and 0 in self.deltas:
            observe(0, self.deltas[0])

    def _backward_group(self, group: _Group, step: Step, observe: Observer | None) -> None:
        for position, (output, work) in reversed(list(enumerate(group.works))):
            if observe and not isinstance(work, SumOfSquares):
                observe(output, self.deltas[output])
            work.backward_input(step)
            if position == 0:
                # Deltas travel while the first layer's weight gradient is computed.
                with self.stopwatch.measure("halo"):
                    group.exchange.begin_adjoint()
            work.backward_weights(step)
        with self.stopwatch.measure("halo"):
            group.exchange.end_adjoint()

    def _fresh(self, tensor: int) -> bool:
        """Whether the first that writes to a tensor's delta overwrites it."""
        readers = self._readers(tensor)
        return bool(readers) and overwrites(readers[-1].operation)

    def _readers(self, tensor: int) -> list[Layer]:
        return [layer for layer in self.network.layers if tensor in layer.inputs]

    def _timed(self, reduce: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], None]:
        def timed(array: np.ndarray) -> None:
            with self.stopwatch.measure("reduce"):
                reduce(array)

        return timed

    def _allocate(self, kind: str, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        array = aligned_zeros(shape, dtype)
        self.bytes[kind] += array.nbytes
        return array

    def _tile(self, tensor: int, kind: str) -> Tile:
        box, shape = self.part.stored[tensor], self.network.shape(tensor)
        array = self._allocate(
            kind, (self.images, box.height, box.width, shape.channels), self._dtype
        )
        return Tile(array, box, shape.height, shape.width)

    def _group(self, number: int) -> _Group:
        needs = self.part.groups[number]
        exchange = Exchange(
            self._topology.team, self.part.transfers[number], self.values, self.deltas
        )
        self.bytes["halos"] += exchange.bytes
        works: list[tuple[int, LayerWork]] = []
        for index in range(needs.first, needs.stop):
            site = self._site(index, needs.computed[index - needs.first])
            works.append((site.layer.output, make_layer(site, self.network)))
            last = index == len(self.network.layers) - 1
            if last and not is_loss(site.layer.operation):
                works.append((site.layer.output, SumOfSquares(site)))
        return _Group(exchange, tuple(works))

    def _site(self, index: int, box: Box) -> Site:
        layer = self.network.layers[index]
        return Site(
            layer=layer,
            box=box,
            owned=self.part.owned[layer.output],
            inputs=tuple(self.values[tensor] for tensor in layer.inputs),
            input_deltas=tuple(self.deltas.get(tensor) for tensor in layer.inputs),
            output=self.values[layer.output],
            output_delta=self.deltas.get(layer.output),
            parameters=self.parameters.of_layer(index),
            gradients=self.parameters.gradients_of(index),
            workspace=self._workspace,
            allocate=lambda shape, dtype: self._allocate("activations", shape, dtype),
            fresh=self._fresh(layer.inputs[0]) and self._readers(layer.inputs[0])[-1] is layer,
            algorithms=self._algorithms(layer),
        )

    def _algorithms(self, layer: Layer) -> dict[str, str]:
        shapes = layer_shapes(self.network, layer, self._grid, self.images)
        return {name: self._choices.of(shape, self._dtype) for name, shape in shapes.items()}
