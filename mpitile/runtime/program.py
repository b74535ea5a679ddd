"""A rank's part of a network, ready to run: tiles, layers, exchanges, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpitile.comm.exchange import Exchange
from mpitile.comm.recorder import HALOS, PARTIAL_DELTAS, Unrecorded
from mpitile.comm.topology import Topology
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.choice import Choices
from mpitile.kernels.tile import Tile
from mpitile.layers.base import LayerWork, Loss, Site, Step
from mpitile.layers.classification import SumOfSquares
from mpitile.layers.pooled import PooledConvolution
from mpitile.layers.registry import is_loss, make_layer, overwrites, workspace_elements
from mpitile.network.kept import kept
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Layer
from mpitile.plan.bytes import arena_bytes, scratch_elements
from mpitile.plan.lifetimes import DELTA, VALUE, pass_buffers
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.recomputation import Piece, stages
from mpitile.plan.timeline import make_timeline
from mpitile.runtime.arena import Arena
from mpitile.runtime.parameters import Parameters
from mpitile.runtime.shapes import layer_shapes
from mpitile.runtime.stopwatch import Stopwatch

Observer = Callable[[int, Tile], None]
Complete = Callable[[Piece], object]


@dataclass(frozen=True)
class _Task:
    """The work on some layers, and what has to be computed again before its backward pass.

    A loss that is no layer of the network has no layers.
    """

    layers: Piece
    work: LayerWork
    again: tuple[tuple[Piece, LayerWork], ...] = ()


@dataclass(frozen=True)
class _Group:
    """A fused group: what is fetched at its start, then the work on its layers in order."""

    exchange: Exchange
    tasks: tuple[_Task, ...]


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
    merge_pools : whether to save the memory of tensors that only a pool reads.
    choices : of the convolutions' algorithms, the same on all ranks.
    recorder : is told what the rank does.

    Attributes
    ----------
    part : this rank's boxes.
    values, deltas : by tensor number, the tiles of each tensor and of its gradient.
        A value lasts until its last reader, forward or backward, has read it, the last
        tensor's until backward begins; deltas are only whole when observed.
    network, parameters : as given.
    stopwatch : seconds spent waiting for halos ("halo") and sums ("reduce").
    bytes : allocated bytes by kind, as `mpitile.plan.bytes` predicts them.
    """

    def __init__(
        self,
        partition: Partition,
        topology: Topology,
        parameters: Parameters,
        images: int,
        training: bool = True,
        input_gradient: bool = False,
        merge_pools: bool = True,
        choices: Choices | None = None,
        recorder: Unrecorded | None = None,
    ) -> None:
        self._mark = (recorder or Unrecorded()).mark
        self.network = partition.network
        self.part: TilePart = partition.part(topology.tile)
        self.stopwatch = Stopwatch()
        self.images = images
        self.parameters = parameters
        self._topology = topology
        self._choices = choices or Choices()
        self._grid = partition.plan.grid
        self._dtype = parameters.values.dtype
        starts = [needs.first for needs in self.part.groups]
        self._merged = merged_pools(self.network, starts) if merge_pools else frozenset()
        buffers = pass_buffers(
            self.network,
            self.part,
            images,
            self._dtype.itemsize,
            training,
            input_gradient,
            self._merged,
            partition.plan.recompute,
        )
        self._stages = stages(self.network, starts, partition.plan.recompute, self._merged)
        self._time = make_timeline(self._stages)
        self._arena = Arena(buffers)
        self.values = {0: self._tile(0, aligned_zeros(self._shape(0), self._dtype))}
        self.values |= self._tiles(VALUE)
        self.deltas = self._tiles(DELTA)
        self._workspace = aligned_zeros((workspace_elements(parameters.specs),), self._dtype)
        scratch = scratch_elements(self.network, self.part, images, self._merged)
        self._scratch = aligned_zeros((scratch,), self._dtype)
        self._groups = tuple(self._group(number) for number in range(len(self.part.groups)))
        self.bytes = {
            "weights": parameters.values.nbytes + parameters.running.nbytes,
            "gradients": parameters.gradients.nbytes,
            **arena_bytes(buffers, self._arena.layout.size, self._time.loss),
            "workspace": self._workspace.nbytes + self._scratch.nbytes,
            "halos": sum(group.exchange.bytes for group in self._groups),
            "images": self.values[0].array.nbytes,
        }

    @property
    def loss(self) -> float:
        """This rank's part of the latest pass's loss, summed over images."""
        works = (task.work for group in self._groups for task in group.tasks)
        return sum(work.loss for work in works if isinstance(work, Loss))

    def close(self) -> None:
        """Free the exchanges; the program is of no use afterwards."""
        for group in self._groups:
            group.exchange.close()

    def forward(self, step: Step, observe: Observer | None = None) -> None:
        """Compute this rank's cells of every tensor from those of the image.

        Parameters
        ----------
        observe : called with each tensor's number and value when it is computed.
        """
        step = replace(step, reduce=self._timed(step.reduce))
        for number, group in enumerate(self._groups):
            self._mark(HALOS, number)
            with self.stopwatch.measure("halo"):
                group.exchange.begin_forward()
                group.exchange.end_forward()
            for task in group.tasks:
                self._mark("forward", _last(task.layers))
                task.work.forward(step)
                if observe and task.layers:
                    tensor = task.layers[-1] + 1
                    observe(tensor, self.values[tensor])

    def backward(
        self, step: Step, observe: Observer | None = None, complete: Complete | None = None
    ) -> None:
        """Add this rank's part of the gradients of all parameters, after `forward`.

        Parameters
        ----------
        observe : called with each tensor's number and partial gradient when it is
            complete; the sum over ranks is the gradient.
        complete : called after every part of the work with the layers whose parameters'
            gradients are complete now, and whose values are not read again; often none.
        """
        step = replace(step, reduce=self._timed(step.reduce))
        if step.overwrite:
            # Layers overwrite the gradients of their weights themselves.
            self.parameters.gradients[self.parameters.decaying :] = 0
        self._clear_deltas({self._time.loss})
        for number in reversed(range(len(self._groups))):
            self._backward_group(number, step, observe, complete or _ignore)
        if observe and 0 in self.deltas:
            observe(0, self.deltas[0])

    def _backward_group(
        self, number: int, step: Step, observe: Observer | None, complete: Complete
    ) -> None:
        group = self._groups[number]
        again = replace(step, again=True)
        for task in reversed(group.tasks):
            for layers, work in task.again:
                self._mark("forward", _last(layers))
                work.forward(again)
                complete(())
            self._mark("backward_input", _last(task.layers))
            self._clear_deltas({self._time.backward[layer] for layer in task.layers})
            if observe and task.layers:
                tensor = task.layers[-1] + 1
                observe(tensor, self.deltas[tensor])
            task.work.backward_input(step)
            if task is group.tasks[0]:
                # Deltas travel while the first layer's weight gradient is computed.
                self._mark(PARTIAL_DELTAS, number)
                with self.stopwatch.measure("halo"):
                    group.exchange.begin_adjoint()
            complete(())
            self._mark("backward_weights", _last(task.layers))
            task.work.backward_weights(step)
            complete(task.layers)
        self._mark(PARTIAL_DELTAS, number)
        with self.stopwatch.measure("halo"):
            group.exchange.end_adjoint()

    def _fresh(self, tensor: int) -> bool:
        """Whether the first that writes to a tensor's delta overwrites it."""
        readers = self._readers(tensor)
        if not readers or readers[-1].index + 1 in self._merged:
            return False
        return overwrites(readers[-1].operation)

    def _readers(self, tensor: int) -> list[Layer]:
        return [layer for layer in self.network.layers if tensor in layer.inputs]

    def _timed(self, reduce: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], None]:
        def timed(array: np.ndarray) -> None:
            with self.stopwatch.measure("reduce"):
                reduce(array)

        return timed

    def _clear_deltas(self, events: set[int]) -> None:
        """Zero the gradients that are first added to at these events."""
        for tensor, tile in self.deltas.items():
            if self._arena.buffer(DELTA, tensor).first in events and not self._fresh(tensor):
                tile.array[...] = 0

    def _shape(self, tensor: int) -> tuple[int, int, int, int]:
        box = self.part.stored[tensor]
        return self.images, box.height, box.width, self.network.shape(tensor).channels

    def _tile(self, tensor: int, array: np.ndarray) -> Tile:
        shape = self.network.shape(tensor)
        return Tile(array, self.part.stored[tensor], shape.height, shape.width)

    def _tiles(self, name: str) -> dict[int, Tile]:
        """The tiles of all tensors that have a buffer of this name."""
        return {
            tensor: self._tile(
                tensor, self._arena.array(name, tensor, self._shape(tensor), self._dtype)
            )
            for tensor in range(len(self.network.shapes))
            if self._arena.holds(name, tensor)
        }

    def _group(self, number: int) -> _Group:
        needs = self.part.groups[number]
        exchange = Exchange(
            self._topology.team, self.part.transfers[number], self.values, self.deltas
        )
        tasks: list[_Task] = []
        for stage in self._stages:
            if not needs.first <= stage.pieces[0][0] < needs.stop:
                continue
            works = {piece: self._work(piece) for piece in stage.pieces}
            tasks += [_Task(piece, work) for piece, work in works.items()]
            again = tuple((piece, works[piece]) for piece in stage.again)
            tasks[-1] = replace(tasks[-1], again=again)
        last = self.network.layers[-1]
        if needs.stop == len(self.network.layers) and not is_loss(last.operation):
            tasks.append(_Task((), SumOfSquares(self._site(last.index))))
        return _Group(exchange, tuple(tasks))

    def _work(self, piece: Piece) -> LayerWork:
        sites = [self._site(index) for index in piece]
        if len(sites) == 2:
            return PooledConvolution(*sites)
        return make_layer(sites[0], self.network)

    def _site(self, index: int) -> Site:
        layer = self.network.layers[index]
        return Site(
            layer=layer,
            box=self.part.computed(index),
            owned=self.part.owned[layer.output],
            stored=self.part.stored[layer.output],
            inputs=tuple(self.values.get(tensor) for tensor in layer.inputs),
            input_deltas=tuple(self.deltas.get(tensor) for tensor in layer.inputs),
            output=self.values.get(layer.output),
            output_delta=self.deltas.get(layer.output),
            parameters=self.parameters.of_layer(index),
            gradients=self.parameters.gradients_of(index),
            workspace=self._workspace,
            scratch=self._scratch,
            kept={
                name: self._arena.array(
                    name, layer.output, self._shape(layer.output), self._dtype if real else np.uint8
                )
                for name, real in kept(layer).items()
            },
            fresh=self._fresh(layer.inputs[0]) and self._readers(layer.inputs[0])[-1] is layer,
            algorithms=self._algorithms(layer),
        )

    def _algorithms(self, layer: Layer) -> dict[str, str]:
        shapes = layer_shapes(self.network, layer, self._grid, self.images)
        return {name: self._choices.of(shape, self._dtype) for name, shape in shapes.items()}


def _ignore(layers: Piece) -> None:
    """Nobody wants to know."""


def _last(layers: Piece) -> int | None:
    """The layer by which a piece of work is known; None for the loss behind all layers."""
    return layers[-1] if layers else None
