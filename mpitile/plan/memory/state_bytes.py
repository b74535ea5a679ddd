"""What ranks train, and its bytes: values, gradients, what the optimiser keeps, sums under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple, TypeVar

from mpitile.network.parameters import ParameterSpec, divided_specs, parameter_specs
from mpitile.network.spec import Network
from mpitile.plan.clusters.devices import Devices, peer_devices
from mpitile.plan.filters import filter_spans
from mpitile.plan.plan import Plan
from mpitile.plan.sums.buckets import layer_buckets
from mpitile.plan.sums.slices import Span, bytes_in_flight, covered, own_spans

T = TypeVar("T")
# Numbers of trained values and of running statistics.
Elements = tuple[int, int]


class Flat(NamedTuple):
    """Parameters that some ranks have alike: how many, and how their sums are cut."""

    elements: Elements
    buckets: tuple[Span, ...]


def parameter_elements(network: Network) -> Elements:
    """Of a network."""
    return _elements(parameter_specs(network))


def tile_elements(network: Network, plan: Plan) -> list[tuple[Elements, Elements]]:
    """By tile, of what all ranks have alike, and of its slices of filter-parallel layers."""
    return _by_tile(network, plan, lambda whole, sliced: (_elements(whole), _elements(sliced)))


def flat_parts(network: Network, plan: Plan, itemsize: int) -> list[tuple[Flat, Flat]]:
    """The same with their buckets."""
    return _by_tile(
        network, plan, lambda whole, sliced: (_flat(whole, itemsize), _flat(sliced, itemsize))
    )


def state_bytes(
    plan: Plan,
    devices: Devices,
    rank: int,
    parts: tuple[Flat, Flat],
    itemsize: int,
    optimizer_arrays: int,
) -> dict[str, int]:
    """Bytes of what is trained; the weights are in the account of a device's first rank.

    So is a slice of filter-parallel layers that the device's ranks have in common.
    "sums" are the buffers for what other devices send while gradients are added up.

    Parameters
    ----------
    parts : of the rank's tile.
    """
    replica, tile = divmod(rank, plan.grid.tiles)
    whole, sliced = parts
    shared = _bytes(devices, rank, whole, itemsize, optimizer_arrays)
    if not any(sliced.elements):
        return shared
    peers = peer_devices(devices, plan.grid.tiles, tile)
    slices = _bytes(peers, replica, sliced, itemsize, optimizer_arrays)
    return {kind: size + slices[kind] for kind, size in shared.items()}


def _by_tile(
    network: Network,
    plan: Plan,
    make: Callable[[Sequence[ParameterSpec], Sequence[ParameterSpec]], T],
) -> list[T]:
    """What is made of each tile's parameters, once for tiles whose slices are as large."""
    spans = filter_spans(network, plan)
    known: dict[tuple[int, ...], T] = {}
    found = []
    for tile in range(plan.grid.tiles):
        own = {layer: of_tiles[tile] for layer, of_tiles in spans.items()}
        channels = tuple(stop - start for start, stop in own.values())
        if channels not in known:
            known[channels] = make(*divided_specs(network, own))
        found.append(known[channels])
    return found


def _flat(specs: Sequence[ParameterSpec], itemsize: int) -> Flat:
    buckets = tuple(bucket.span for bucket in layer_buckets(specs, itemsize))
    return Flat(_elements(specs), buckets)


def _bytes(
    devices: Devices, rank: int, flat: Flat, itemsize: int, optimizer_arrays: int
) -> dict[str, int]:
    """Of parameters that all ranks of some devices have alike."""
    trained, running = flat.elements
    _, position = devices.place(rank)
    own = covered(own_spans(devices, rank, flat.buckets))
    return {
        "weights": (running + (0 if position else trained)) * itemsize,
        "gradients": trained * itemsize,
        "optimizer": own * optimizer_arrays * itemsize,
        "sums": bytes_in_flight(devices, rank, flat.buckets, itemsize),
    }


def _elements(specs: Sequence[ParameterSpec]) -> Elements:
    trained = sum(prod(spec.shape) for spec in specs if spec.trained)
    return trained, sum(prod(spec.shape) for spec in specs) - trained
