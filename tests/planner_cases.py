"""Clusters of devices without measured kernels, and all plans of small networks."""

from itertools import chain, combinations

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.network.receptive import needs_whole_input
from mpitile.plan.clusters.cluster import KINDS, OPERATIONS, Cluster, Device, DeviceSpeed, Link
from mpitile.plan.filters import check_filters, split_at_switches
from mpitile.plan.search.choices import Group


def speed(gflops, call=1e-6):
    return DeviceSpeed(
        flops={(kind, name): gflops * 1e9 for kind in KINDS for name in OPERATIONS},
        bytes=gflops * 1e9,
        call=call,
        clear=gflops * 1e9,
        copy=gflops * 1e9,
        piece=1e-6,
        sum=gflops * 1e9,
        update={"sgd": 1e-9, "adam": 2e-9},
    )


def cluster(*devices, medium="switched", between=(1e-5, 1e8), memory=None):
    """Devices given by their ranks and GFLOP/s."""
    return Cluster(
        tuple(
            Device(f"d{number}", ranks, memory, speed(gflops))
            for number, (ranks, gflops) in enumerate(devices)
        ),
        Link(1e-6, 1e9),
        Link(*between),
        medium,
    )


def forced(network):
    return {layer.index for layer in network.layers if needs_whole_input(layer)} - {0}


def groupings(network):
    """All ways to cut a network into groups."""
    must = forced(network)
    free = [n for n in range(1, len(network.layers)) if n not in must]
    for some in chain.from_iterable(combinations(free, n) for n in range(len(free) + 1)):
        yield (0, *sorted({*some, *must}))


def switches(network):
    """All choices of filter-parallel layers."""
    layers = range(len(network.layers))
    for some in chain.from_iterable(combinations(layers, n) for n in range(len(layers) + 1)):
        try:
            check_filters(network, some)
        except InputError:
            continue
        yield some


def mixed_groupings(network):
    """All ways to cut a network into groups of tiles and filter-parallel ones."""
    for filters in switches(network):
        for starts in groupings(network):
            if split_at_switches(network, starts, filters) == starts:
                ranges = group_ranges(starts, len(network.layers))
                yield tuple(Group(*group, group[0] in filters) for group in ranges)
