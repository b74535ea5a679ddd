"""A rank's part of a network, ready to run: tiles, layers, exchanges, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mpitile.comm.devices import DeviceGroup
from mpitile.comm.exchange import Exchange
from mpitile.comm.gathering import WholeExchange
from mpitile.comm.recorder import HALOS, PARTIAL_DELTAS, Unrecorded
from mpitile.comm.topology import Topology
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.choice import Choices
from mpitile.kernels.tile import Tile
from mpitile.layers.base import LayerWork, Loss, Site, Step
from mpitile.layers.classification import SumOfSquares
from mpitile.layers.pooled import PooledConvolution
from mpitile.layers.registry import is_loss, make_layer
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Layer
from mpitile.plan.memory.bytes import arena_bytes, band_sizes, scratch_elements
from mpitile.plan.memory.lifetimes import pass_buffers
from mpitile.plan.partition import Partition, TilePart
from mpitile.plan.pass_order import pass_order
from mpitile.plan.recomputation import Piece, stages
from mpitile.runtime.arrays import PassArrays
from mpitile.runtime.exchanges import Exchanges, gathering_place
from mpitile.runtime.parameters import FlatParameters, Parameters
from mpitile.runtime.shapes import layer_shapes
from mpitile.runtime.stopwatch import Stopwatch
from mpitile.runtime.workspace import KernelMemory

Observer = Callable[[int, Tile], None]
Complete = Callable[[Piece], object]
Ready = Callable[[Piece], object]


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
    """A fused group: what is fetched at its start, then the work on its layers in order.

    A sliced one has channels of its own, which the replicas' ranks with the same tile share.
    """

    exchange: Exchange | WholeExchange
    tasks: tuple[_Task, ...]
    sliced: bool


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
    group : which ranks share memory, by way of which whole copies are filled; None for none.

    Attributes
    ----------
    part : this rank's boxes.
    values, deltas : by tensor number, the tiles of each tensor and of its gradient.
        A value lasts until its last reader, forward or backward, has read it, the last
        tensor's until backward begins; deltas are only whole when observed.
    network, parameters : as given.
    stopwatch : seconds spent waiting for halos ("halo") and sums ("reduce").
    bytes : allocated bytes by kind, as `mpitile.plan.memory.bytes` predicts them.
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
        group: DeviceGroup | None = None,
    ) -> None:
        self.network = partition.network
        self.part: TilePart = partition.part(topology.tile)
        spans = {tensor - 1: span for tensor, span in self.part.slices.items()}
        if parameters.spans != spans:
            raise ValueError(f"parameters: expected slices {spans}, got {parameters.spans}")
        recorder = recorder or Unrecorded()
        self._mark = recorder.mark
        self.stopwatch = Stopwatch()
        self.images = images
        self.parameters = parameters
        self._topology = topology
        self._choices = choices or Choices()
        self._plan = partition.plan
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
        self._time = pass_order(self._stages)
        self._place = place = gathering_place(partition, topology, group)
        inside = place.inside if place else None
        self._arrays = PassArrays(self.network, self.part, images, self._dtype, buffers, inside)
        self.values, self.deltas = self._arrays.values, self._arrays.deltas
        kernels = KernelMemory(self._choices, self._dtype)
        (self._kernels,) = kernels(partition, [self.part], images, self._merged)
        self._bands = band_sizes(self.network, self.part, images, self._merged)
        scratch = scratch_elements(self._bands, self._kernels)
        self._scratch = aligned_zeros((scratch,), self._dtype)
        self._exchanges = Exchanges(
            partition, self.part, topology, self._arrays, images, self._dtype, place, recorder
        )
        self._groups = tuple(self._group(number) for number in range(len(self.part.groups)))
        self.bytes = {
            "weights": sum(flat.values.nbytes + flat.running.nbytes for flat in self._flats),
            "gradients": sum(flat.gradients.nbytes for flat in self._flats),
            **arena_bytes(buffers, self._arrays.arena.layout.size, self._time.loss),
            "workspace": self._scratch.nbytes,
            "halos": self._exchanges.bytes,
            "images": self.values[0].array.nbytes,
        }
        self.bytes["activations"] += self._arrays.arena.common_bytes

    @property
    def _flats(self) -> tuple[FlatParameters, FlatParameters]:
        return self.parameters.shared, self.parameters.slices

    @property
    def loss(self) -> float:
        """This rank's part of the latest pass's loss, summed over images."""
        works = (task.work for group in self._groups for task in group.tasks)
        return sum(work.loss for work in works if isinstance(work, Loss))

    def close(self) -> None:
        """Free the exchanges and what a device has in common; the program is of no use afterwards.

        Collective in the team.
        """
        self._exchanges.close()
        self._arrays.arena.close()
        if self._place:
            self._place.close()

    def forward(
        self, step: Step, observe: Observer | None = None, ready: Ready | None = None
    ) -> None:
        """Compute this rank's cells of every tensor from those of the image.

        Parameters
        ----------
        observe : called with each tensor's number and value when it is computed.
        ready : called before every part of the work with its layers, returns when their
            parameters have their values.
        """
        steps = self._steps(step)
        for number, group in enumerate(self._groups):
            step = steps[group.sliced]
            self._mark(HALOS, number)
            with self.stopwatch.measure("halo"):
                group.exchange.begin_forward()
                group.exchange.end_forward()
            for task in group.tasks:
                if ready:
                    with self.stopwatch.measure("reduce"):
                        ready(task.layers)
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
        steps = self._steps(step)
        for flat in self._flats if step.overwrite else ():
            # Layers overwrite the gradients of their weights themselves.
            flat.gradients[flat.decaying :] = 0
        self._arrays.clear_deltas({self._time.loss})
        for number in reversed(range(len(self._groups))):
            sliced = self._groups[number].sliced
            self._backward_group(number, steps[sliced], observe, complete or _ignore)
        if observe and 0 in self.deltas:
            observe(0, self.deltas[0])

    def _backward_group(
        self, number: int, step: Step, observe: Observer | None, complete: Complete
    ) -> None:
        group = self._groups[number]
        for task in reversed(group.tasks):
            for layers, work in task.again:
                self._mark("forward", _last(layers))
                work.forward(replace(step, again=True))
                complete(())
            self._mark("backward_input", _last(task.layers))
            self._arrays.clear_deltas({self._time.backward[layer] for layer in task.layers})
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

    def _steps(self, step: Step) -> tuple[Step, Step]:
        """The step as tiled groups take it, and as sliced ones do."""
        peers = self._topology.peers
        alone = replace(step, reduce=_stays if peers.size == 1 else self._timed(peers.sum))
        return replace(step, reduce=self._timed(step.reduce)), alone

    def _timed(self, reduce: Callable[[np.ndarray], None]) -> Callable[[np.ndarray], None]:
        def timed(array: np.ndarray) -> None:
            with self.stopwatch.measure("reduce"):
                reduce(array)

        return timed

    def _group(self, number: int) -> _Group:
        needs = self.part.groups[number]
        exchange = self._exchanges.of_group[number]
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
        return _Group(exchange, tuple(tasks), needs.first in self._plan.filters)

    def _work(self, piece: Piece) -> LayerWork:
        sites = [self._site(index) for index in piece]
        if len(sites) == 2:
            return PooledConvolution(*sites)
        return make_layer(sites[0], self.network)

    def _site(self, index: int) -> Site:
        layer, arrays = self.network.layers[index], self._arrays
        band = self._bands.get(index, 0)
        return Site(
            layer=self.part.local(layer),
            box=self.part.computed(index),
            owned=self.part.owned[layer.output],
            stored=self.part.stored[layer.output],
            inputs=tuple(arrays.value(tensor, index) for tensor in layer.inputs),
            input_deltas=tuple(arrays.delta(tensor, index) for tensor in layer.inputs),
            output=self.values.get(layer.output),
            output_delta=self.deltas.get(layer.output),
            parameters=self.parameters.of_layer(index),
            gradients=self.parameters.gradients_of(index),
            workspace=self._scratch[band : band + self._kernels.get(index, 0)],
            scratch=self._scratch[:band],
            kept=arrays.kept(layer),
            fresh=arrays.overwritten_by(layer),
            algorithms=self._algorithms(layer),
        )

    def _algorithms(self, layer: Layer) -> dict[str, str]:
        sliced = layer.index in self._plan.filters
        shapes = layer_shapes(self.network, layer, self._plan.grid, self.images, sliced)
        return {name: self._choices.of(shape, self._dtype) for name, shape in shapes.items()}


def _ignore(layers: Piece) -> None:
    """Nobody wants to know."""


def _last(layers: Piece) -> int | None:
    """The layer by which a piece of work is known; None for the loss behind all layers."""
    return layers[-1] if layers else None


def _stays(array: np.ndarray) -> None:
    """The sum over a single rank."""
