"""Seconds of everything that a training step consists of, on a given cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mpitile.network.merging import merged_pools
from mpitile.network.spec import Layer, Network
from mpitile.plan.clusters.cluster import Cluster, DeviceSpeed, Point
from mpitile.plan.clusters.devices import first_devices
from mpitile.plan.costs.curve import Curve
from mpitile.plan.costs.effort import effort
from mpitile.plan.costs.layer_class import (
    WHOLE_ROWS,
    Work,
    box_class,
    has_loss,
    layer_work,
    loss_class,
    loss_work,
    overwrites,
)
from mpitile.plan.filters import local_layer
from mpitile.plan.sums.reduction import broadcast_rounds, reduce_rounds
from mpitile.plan.sums.slices import loads, own_elements

# Elements or bytes by which the seconds for each further one are told.
_MANY = 1 << 24
# Of a box of images, rows and columns.
Measure = Callable[[int, int, int], float]


class Message(NamedTuple):
    """Bytes that travel from one rank to another."""

    source: int
    target: int
    size: float


class Cost:
    """Predicted seconds of a network's parts.

    A layer's time comes from what was measured of its class, and from the device's
    general rates where nothing was.

    Parameters
    ----------
    network : whose layers are asked for by number.
    cluster : where it runs.
    itemsize : bytes of a number. Numbers twice as wide as the measured ones are taken to
        cost twice as much.
    """

    def __init__(self, network: Network, cluster: Cluster, itemsize: int = 4) -> None:
        self.network = network
        self.cluster = cluster
        self.itemsize = itemsize
        self._width = itemsize / cluster.itemsize
        # Pools that could be merged in some grouping, by number, with their convolutions.
        self._before = {pool: network.layers[pool - 1] for pool in merged_pools(network, starts=())}
        self._readers: dict[int, list[int]] = {}
        for layer in network.layers:
            for tensor in layer.inputs:
                self._readers.setdefault(tensor, []).append(layer.index)
        self._curves: dict[tuple[int, str, str], Curve | None] = {}
        self._known: dict[tuple[int, int, str, int, int, int, bool, int | None], float] = {}
        self._groups = _same_speeds(cluster)
        self._reductions: dict[tuple[float, int], float] = {}
        self._rates: dict[tuple[int, str], float] = {}
        self._sums: dict[int, tuple[float, float]] = {}

    def compute(
        self,
        device: int,
        layer: int,
        operation: str,
        images: int,
        rows: int,
        columns: int,
        merged: bool = False,
        channels: int | None = None,
    ) -> float:
        """Seconds for a layer's work on `rows` x `columns` cells of its output.

        Batch norm, bias, activation and its derivative are included, the loss of a network
        without one with its last layer, and in "backward_input" zeroing the gradients that a
        layer is the first to add to; reductions are not. Zero for no cells. What a layer that
        reads the image does of "backward_input", such as batch norm, counts as
        "backward_weights".

        Parameters
        ----------
        device : its number in the cluster.
        operation : "forward", "backward_input" or "backward_weights".
        merged : the layer is a pool that is computed together with the convolution before
            it (`mpitile.network.merging`); both are meant, and the box is the pool's.
        channels : how many of its output's are computed, where it is filter-parallel.
        """
        if not (images and rows and columns) or channels == 0:
            return 0.0
        key = (self._groups[device], layer, operation, images, rows, columns, merged, channels)
        seconds = self._known.get(key)
        if seconds is None:
            seconds = self._known[key] = self._compute(*key)
        return seconds

    def same_speed(self, device: int) -> int:
        """The first device on which everything takes as long as on this one."""
        return self._groups[device]

    def pack(self, device: int, size: float, pieces: int = 1) -> float:
        """Seconds to copy bytes of so many messages into or out of their buffers."""
        speed = self._speed(device)
        return (size / speed.copy + pieces * speed.piece) / speed.share

    def update(self, device: int, elements: int, optimizer: str = "sgd") -> float:
        """Seconds of the optimiser's update of this many weights."""
        speed = self._speed(device)
        return elements * self._width * speed.update[optimizer] / speed.share

    def overhead(self, device: int) -> float:
        """Seconds of a step's Python outside layers, exchanges and sums."""
        speed = self._speed(device)
        return len(self.network.layers) * speed.call / speed.share

    def exchange(self, messages: Iterable[tuple[int, int, float]]) -> dict[int, float]:
        """Seconds until each rank has sent and received its part, all beginning at once.

        What leaves a device shares its link, and so does what arrives, but not one with
        the other; over a shared medium all messages take turns. Inside a device each rank
        copies what it sends and what it receives at the same time.
        """
        places, cluster = self.cluster.device_of, self.cluster
        out: Counter[int] = Counter()
        into: Counter[int] = Counter()
        own_out: Counter[int] = Counter()
        own_into: Counter[int] = Counter()
        messages = list(messages)
        for source, target, size in messages:
            here, there = places(source), places(target)
            if here == there:
                own_out[source] += size
                own_into[target] += size
            else:
                out[here] += size
                into[there] += size
        every = sum(out.values())
        seconds: dict[int, float] = {}
        for source, target, _ in messages:
            here, there = places(source), places(target)
            if here == there:
                link, size = cluster.inside, max(own_out[source], own_into[target])
            else:
                size = every if cluster.medium == "shared" else max(out[here], into[there])
                link = cluster.between
            for rank in (source, target):
                seconds[rank] = max(seconds.get(rank, 0.0), link.seconds(size))
        return seconds

    def between_devices(self, out: Sequence[float], into: Sequence[float]) -> float:
        """Seconds until all messages have arrived, as `exchange` has them.

        Parameters
        ----------
        out, into : bytes that leave and reach each device.
        """
        busiest = sum(out) if self.cluster.medium == "shared" else max(*out, *into)
        return self.cluster.between.seconds(busiest) if busiest else 0.0

    def reduction(self, size: float, ranks: int) -> float:
        """Seconds to add up `size` bytes over the first `ranks` ranks, on all of them.

        As Open MPI's nonblocking all-reduce does it in place: up a binomial tree to rank 0
        and down again, whatever the size (``ompi/mca/coll/libnbc/nbc_iallreduce.c``: buffers
        in place always take ``NBC_ARED_BINOMIAL``).
        """
        if ranks < 2 or not size:
            return 0.0
        key = (size, ranks)
        if key not in self._reductions:
            up = sum(self._round(pairs, size, adding=True) for pairs in reduce_rounds(ranks))
            down = sum(self._round(pairs, size, adding=False) for pairs in broadcast_rounds(ranks))
            self._reductions[key] = up + down
        return self._reductions[key]

    def gradient_sum(self, size: int, ranks: int) -> float:
        """Seconds to add up gradients over the first `ranks` ranks and hand out the values.

        By slices, as `mpitile.plan.sums.slices` says: inside each device, from it to all others,
        and back the same way. Its update between both is not in it. But for the rounding of
        slices, a latency and so much a byte.
        """
        if not size:
            return 0.0
        if ranks not in self._sums:
            once, twice = (self._sliced_sum(times * _MANY, ranks) for times in (1, 2))
            self._sums[ranks] = 2 * once - twice, (twice - once) / _MANY
        latency, each = self._sums[ranks]
        return latency + size * each

    def _sliced_sum(self, size: int, ranks: int) -> float:
        devices = first_devices(self.cluster, ranks)
        inside = outside = 0.0
        out, into = [0] * len(devices), [0] * len(devices)
        for rank, load in enumerate(loads(devices, size)):
            number, _ = devices.place(rank)
            speed = self._speed(self.cluster.device_of(rank))
            rate = speed.sum * speed.share
            inside = max(inside, (len(devices.ranks[number]) - 1) * load.added / rate)
            outside = max(outside, load.received / rate)
            out[number] += load.sent
            into[number] += load.received
        # The values come back the way that the sums went.
        return inside + outside + 2 * self.between_devices(out, into)

    def trained(self, ranks: int, optimizer: str) -> float:
        """Seconds that each further trained number adds to a step: its sum and its update."""
        key = (ranks, optimizer)
        if key not in self._rates:
            size, own = _MANY * self.itemsize, own_elements(self.cluster, ranks, _MANY)
            added = self.gradient_sum(2 * size, ranks) - self.gradient_sum(size, ranks)
            update = max(
                self.update(self.cluster.device_of(rank), elements, optimizer)
                for rank, elements in enumerate(own)
            )
            self._rates[key] = (added + update) / _MANY
        return self._rates[key]

    def _round(self, pairs: Sequence[tuple[int, int]], size: float, adding: bool) -> float:
        seconds = self.exchange((source, target, size) for source, target in pairs)
        slowest = 0.0
        for _, target in pairs:
            speed = self._speed(self.cluster.device_of(target))
            sums = size / (speed.sum * speed.share) if adding else 0.0
            slowest = max(slowest, seconds[target] + sums)
        return slowest

    def _speed(self, device: int) -> DeviceSpeed:
        return self.cluster.devices[device].speed

    def _compute(
        self,
        device: int,
        layer: int,
        operation: str,
        images: int,
        rows: int,
        columns: int,
        merged: bool,
        channels: int | None,
    ) -> float:
        described = self.network.layers[layer]
        before = self._before[layer] if merged else None
        whole = (described, before)
        if channels is not None:
            described = local_layer(described, (0, channels))
            before = local_layer(before, (0, channels)) if before else None
        reads_image = 0 in (before or described).inputs
        if reads_image and operation == "backward_input":
            return 0.0
        operations = [operation]
        if operation == "backward_weights":
            operations += ["backward_input"] * reads_image
        box = (images, rows, columns)
        seconds = sum(
            self._work(device, described, before, name, *box, whole) for name in operations
        )
        if "backward_input" in operations:
            seconds += self._clearing(device, described, before, *box)
        last = layer == len(self.network.layers) - 1 and not has_loss(self.network)
        if last and operation != "backward_weights":
            cells = images * rows * columns
            part = described.output_shape.channels / whole[0].output_shape.channels
            seconds += part * self._loss(device, whole[0], operation, cells)
        return seconds / self._speed(device).share

    def _work(
        self,
        device: int,
        layer: Layer,
        before: Layer | None,
        operation: str,
        images: int,
        rows: int,
        columns: int,
        whole: tuple[Layer, Layer | None],
    ) -> float:
        """Of a layer, or of a slice of the layer `whole`, each with the convolution before it."""
        box = (operation, images, rows, columns)
        seconds = self._measured(device, layer, before, *box)
        if seconds is not None:
            return seconds
        cells = images * rows * columns
        seconds = self._general(device, layer_work(layer, operation, before), operation, cells)
        every = self._measured(device, *whole, *box) if layer is not whole[0] else None
        if every is None:
            return seconds
        # A slice takes the part of what was measured of all filters that it should.
        work = layer_work(whole[0], operation, whole[1])
        estimated = self._general(device, work, operation, cells)
        return every * seconds / estimated if estimated else every

    def _clearing(
        self,
        device: int,
        layer: Layer,
        before: Layer | None,
        images: int,
        rows: int,
        columns: int,
    ) -> float:
        """Zeroing the gradients that this layer, in backward, is the first to add to.

        And its output's, where no layer adds to it.
        """
        reader = before or layer
        added = not overwrites(layer.operation)
        # Cells of the input for one of the output.
        ratio = (reader.input_shapes[0].height / layer.output_shape.height) ** 2
        elements = sum(
            ratio * shape.channels
            for tensor, shape in zip(reader.inputs, reader.input_shapes, strict=True)
            if added and tensor and self._readers[tensor][-1] == reader.index
        )
        if layer.output not in self._readers:
            elements += layer.output_shape.channels
        return elements * images * rows * columns * self.itemsize / self._speed(device).clear

    def _measured(
        self,
        device: int,
        layer: Layer,
        before: Layer | None,
        operation: str,
        images: int,
        rows: int,
        columns: int,
    ) -> float | None:
        """Between the measured points of its class; None where there are none."""
        name = box_class(layer, columns, before)

        def measure(images: int, rows: int, columns: int) -> float:
            return effort(layer, operation, images, rows, columns, before)

        curve = self._curve(device, name, operation, measure)
        if curve is None:
            other = name.removesuffix(WHOLE_ROWS)
            other += WHOLE_ROWS if other == name else ""
            curve = self._curve(device, other, operation, measure)
        return None if curve is None else self._width * curve.at(measure(images, rows, columns))

    def _curve(self, device: int, name: str, operation: str, measure: Measure) -> Curve | None:
        """Seconds over a measure of boxes that all layers of the class share."""
        key = (device, name, operation)
        if key not in self._curves:
            points = self._speed(device).kernels.get(name, {}).get(operation, ())
            self._curves[key] = Curve(_pairs(points, measure)) if points else None
        return self._curves[key]

    def _loss(self, device: int, layer: Layer, operation: str, cells: int) -> float:
        curve = self._curve(device, loss_class(layer.output_shape), operation, _cells)
        if curve:
            return self._width * curve.at(cells)
        return self._general(device, loss_work(layer.output_shape), operation, cells)

    def _general(self, device: int, work: Work, operation: str, cells: int) -> float:
        if work == Work():
            return 0.0
        speed = self._speed(device)
        elements = work.elements * cells + work.fixed_elements
        seconds = work.flops * cells / speed.flops[work.kind, operation]
        seconds += elements * self.cluster.itemsize / speed.bytes
        return self._width * seconds + speed.call


def _pairs(points: Iterable[Point], measure: Measure) -> list[tuple[float, float]]:
    return [(measure(p.images, p.rows, p.columns), p.seconds) for p in points]


def _cells(images: int, rows: int, columns: int) -> int:
    return images * rows * columns


def _same_speeds(cluster: Cluster) -> tuple[int, ...]:
    """For each device, the first one whose speed is the same."""
    first: dict[int, int] = {}
    return tuple(
        first.setdefault(id(device.speed), number) for number, device in enumerate(cluster.devices)
    )
