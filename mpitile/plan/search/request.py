"""What a plan is wanted for, and what has been planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import NamedTuple

from mpitile.errors import InputError
from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import Cluster
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.plan import Plan

AUTO = "auto"


@dataclass(frozen=True)
class Request:
    """A network to train on the first `ranks` ranks of a cluster, and what is settled already.

    Attributes
    ----------
    demand : of memory; its images are those of one pass over all replicas.
    passes : of a step.
    optimizer : "sgd" or "adam".
    grid : "auto", or such as "2x2".
    replicas : a number, or "auto".
    groups : "auto", or the first layer of each.
    recompute : "auto", "none", "all", or numbers of the groups that are named.
    filters : "auto", "none", or numbers of the filter-parallel layers.
    row_weights, column_weights : None for equal ones, or by speed on a mixed cluster.
    memory_limit : bytes that the ranks of a device may take, beside the device's memory.
    overlap : whether gradients are summed beside the last backward pass, on several devices.
    """

    network: Network
    cluster: Cluster
    ranks: int
    demand: Demand
    passes: int = 1
    optimizer: str = "sgd"
    grid: str = AUTO
    replicas: int | str = 1
    groups: Sequence[int] | str = AUTO
    recompute: Sequence[int] | str = AUTO
    filters: Sequence[int] | str = AUTO
    row_weights: tuple[float, ...] | None = None
    column_weights: tuple[float, ...] | None = None
    memory_limit: int | None = None
    overlap: bool = True

    def room(self, device: int) -> float:
        """Bytes that the arrays of a device's ranks may take."""
        limits = (self.memory_limit, self.cluster.devices[device].memory)
        return min((limit for limit in limits if limit is not None), default=inf)

    @property
    def limited(self) -> bool:
        """Whether any device's memory is."""
        return any(self.room(device) < inf for device in range(len(self.cluster.devices)))


class Measured(NamedTuple):
    """What a plan takes in memory.

    Attributes
    ----------
    ranks : for each rank, its bytes by kind.
    devices : for each device, the bytes of its ranks.
    excess : by how many bytes the worst device's exceed its room; not above 0 where it fits.
    """

    ranks: tuple[Mapping[str, int], ...]
    devices: tuple[int, ...]
    excess: float


@dataclass(frozen=True)
class Planned:
    """A plan with what is predicted of it.

    Attributes
    ----------
    plan : as it is.
    time, measure : find `pass_seconds`, and the bytes, when they are first asked for; that
        takes a while.
    limited : whether it could be too large.
    """

    plan: Plan
    time: Callable[[], float] = field(repr=False, compare=False)
    measure: Callable[[], Measured] = field(repr=False, compare=False)
    limited: bool = True

    @cached_property
    def pass_seconds(self) -> float:
        """Of one pass with its share of the step's sums, as groups add up."""
        return self.time()

    @cached_property
    def measured(self) -> Measured:
        return self.measure()

    @property
    def ranks(self) -> tuple[Mapping[str, int], ...]:
        return self.measured.ranks

    @property
    def devices(self) -> tuple[int, ...]:
        return self.measured.devices

    @property
    def excess(self) -> float:
        return self.measured.excess

    @property
    def fits(self) -> bool:
        return not self.limited or self.excess <= 0


def first_ranks(cluster: Cluster, ranks: int) -> Cluster:
    """The cluster without the ranks behind the first `ranks`.

    Raises
    ------
    InputError : it has fewer.
    """
    if ranks > cluster.ranks:
        raise InputError(
            f"{ranks} ranks on a cluster of {cluster.ranks}: expected at most as many as its "
            f"{len(cluster.devices)} device(s) run"
        )
    devices, left = [], ranks
    for device in cluster.devices:
        if left:
            devices.append(replace(device, ranks=min(left, device.ranks)))
            left -= devices[-1].ranks
    return replace(cluster, devices=tuple(devices))


def without_limits(cluster: Cluster) -> Cluster:
    """The cluster with nothing known of its memory."""
    return replace(cluster, devices=tuple(replace(d, memory=None) for d in cluster.devices))
