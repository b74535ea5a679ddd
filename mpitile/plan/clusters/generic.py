"""A cluster to plan for where none has been measured or described."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mpitile.plan.clusters.cluster import KINDS, OPERATIONS, Cluster, Device, DeviceSpeed, Link

# A core of a desktop computer. Plans follow from how these figures compare with each other,
# far more than from how large they are.
_FLOPS = {"3x3": 100e9, "1x1": 80e9, "other": 60e9, "depthwise": 10e9}
_SPEED = DeviceSpeed(
    flops={(kind, name): _FLOPS[kind] for kind in KINDS for name in OPERATIONS},
    bytes=8e9,
    call=20e-6,
    clear=8e9,
    copy=4e9,
    piece=5e-6,
    sum=3e9,
    update={"sgd": 3e-9, "adam": 6e-9},
)
# Shared memory, and 1 Gbit/s Ethernet.
_INSIDE = Link(2e-6, 4e9)
_BETWEEN = Link(100e-6, 117e6)


def generic_cluster(hosts: Sequence[str]) -> Cluster:
    """Alike devices with one rank for each entry of `hosts`, in the order of ranks.

    The same for the same entries, wherever it is asked for. Nothing is known of memory.
    """
    devices = tuple(Device(host, len(list(ranks)), None, _SPEED) for host, ranks in groupby(hosts))
    return Cluster(devices, _INSIDE, _BETWEEN)
