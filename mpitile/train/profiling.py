"""Measures a cluster: its devices, and the links between them."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mpitile.comm.communicator import Communicator
from mpitile.comm.pingpong import measure_links
from mpitile.errors import InputError
from mpitile.kernels import tuning
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Layer, Network
from mpitile.plan.clusters.cluster import Cluster, Device, DeviceSpeed
from mpitile.plan.costs.layer_class import WHOLE_ROWS, Work, layer_class, layer_work
from mpitile.runtime.fitting import Sample, fit_rates
from mpitile.runtime.pace import Pace
from mpitile.train.device_speed import (
    Measured,
    device_memory,
    measure_device,
    merged,
    trained_count,
)

# Devices of one model that differ by less are taken to be equal.
_ALIKE = 1.15
_ITEMSIZE = 4


@dataclass(frozen=True)
class _Host:
    """A device as its ranks found it.

    Attributes
    ----------
    model : the processor and its instructions.
    ranks : what each of them measured.
    """

    name: str
    model: str
    memory: int | None
    ranks: tuple[Measured, ...]

    @property
    def seconds(self) -> float:
        """Of all points together: smaller is faster."""
        return statistics.median(
            sum(point.seconds for points in rank.points.values() for point in points) / rank.share
            for rank in self.ranks
        )

    def like(self, other: _Host) -> bool:
        """Whether one figure may stand for both."""
        same = (self.model, self.memory, len(self.ranks)) == (
            other.model,
            other.memory,
            len(other.ranks),
        )
        return same and 1 / _ALIKE < self.seconds / other.seconds < _ALIKE


def profile(
    world: Communicator,
    networks: Sequence[Network],
    seconds: float,
    tell: Callable[[str], None],
    pace: Pace | None = None,
) -> Cluster:
    """Measure with all ranks at once. Collective; the result is the same on all ranks.

    Parameters
    ----------
    networks : whose layers are measured.
    seconds : about how long that may take.
    tell : says what is going on.
    pace : tells how fast this rank's core is meanwhile; a new one if None.

    Raises
    ------
    InputError : on all ranks, where they are not numbered host by host, not even a small tile
        of a network fits into memory, or no network has weights.
    """
    if not any(map(trained_count, networks)):
        names = ", ".join(network.name for network in networks)
        raise InputError(f"{names}: expected a network with weights to train, but there are none")
    hosts = host_ranks(world.allgather(socket.gethostname()))
    tell(f"links of {len(hosts)} device(s)")
    inside, between, medium = measure_links(world, hosts)
    neighbours = next(len(ranks) for ranks in hosts if world.rank in ranks)
    own = measure_device(world, networks, neighbours, seconds, tell, pace or Pace())
    every = world.allgather((socket.gethostname(), tuning.machine(), device_memory(), own))
    found = [
        _Host(*every[ranks[0]][:3], tuple(every[rank][3] for rank in ranks)) for ranks in hosts
    ]
    return Cluster(_devices(found, networks), inside, between, medium, _ITEMSIZE)


def host_ranks(names: Sequence[str]) -> list[range]:
    """The ranks of each host, in their order.

    Raises
    ------
    InputError : a host's ranks do not follow each other.
    """
    starts = [rank for rank, name in enumerate(names) if rank == 0 or names[rank - 1] != name]
    if len(starts) != len(set(names)):
        raise InputError(
            "the ranks are not numbered host by host: expected a hostfile with slots, and no "
            "mapping that changes their order"
        )
    return [range(a, b) for a, b in zip(starts, [*starts[1:], len(names)], strict=True)]


def _devices(hosts: Sequence[_Host], networks: Sequence[Network]) -> tuple[Device, ...]:
    """Equal devices share one speed, taken of all their ranks, and the first one's name."""
    kinds: list[list[_Host]] = []
    for host in hosts:
        kind = next((kind for kind in kinds if kind[0].like(host)), None)
        if kind:
            kind.append(host)
        else:
            kinds.append([host])
    works = _works(networks)
    speeds = [_speed([rank for host in kind for rank in host.ranks], works) for kind in kinds]
    devices = []
    for host in hosts:
        number = next(i for i, kind in enumerate(kinds) if host in kind)
        name = kinds[number][0].name
        devices.append(Device(name, len(host.ranks), host.memory, speeds[number]))
    return tuple(devices)


def _works(networks: Sequence[Network]) -> dict[str, tuple[Layer, Layer | None]]:
    """By class, a layer of it, with its convolution where it is a merged pool."""
    found: dict[str, tuple[Layer, Layer | None]] = {}
    for network in networks:
        for layer in network.layers:
            found[layer_class(layer)] = (layer, None)
        for pool in merged_pools(network, starts=()):
            layers = network.layers[pool], network.layers[pool - 1]
            found[layer_class(*layers)] = layers
    return found


def _speed(ranks: Sequence[Measured], works: dict[str, tuple[Layer, Layer | None]]) -> DeviceSpeed:
    def middle(values: Sequence[float]) -> float:
        return statistics.median(values)

    points = merged(rank.points for rank in ranks)
    samples = []
    for (name, operation), values in points.items():
        if name.removesuffix(WHOLE_ROWS) in works:
            layer, convolution = works[name.removesuffix(WHOLE_ROWS)]
            if operation == "backward_input" and 0 in (convolution or layer).inputs:
                # Next to nothing is done where nobody wants the image's gradient.
                continue
            work: Work = layer_work(layer, operation, convolution)
            samples += [
                Sample(operation, work, p.images * p.rows * p.columns, p.seconds) for p in values
            ]
    rates = fit_rates(samples, _ITEMSIZE)
    kernels: dict[str, dict[str, tuple]] = {}
    for (name, operation), values in points.items():
        kernels.setdefault(name, {})[operation] = tuple(values)
    return DeviceSpeed(
        flops=rates.flops,
        bytes=rates.bytes,
        call=rates.call,
        clear=middle([rank.clear for rank in ranks]),
        copy=middle([rank.copy for rank in ranks]),
        piece=middle([rank.piece for rank in ranks]),
        sum=middle([rank.add for rank in ranks]),
        update={name: middle([rank.update[name] for rank in ranks]) for name in ranks[0].update},
        share=middle([rank.share for rank in ranks]),
        kernels=kernels,
    )
