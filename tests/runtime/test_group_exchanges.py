"""What groups fetch, in place and into copies: delivered whole, and the adjoint of its way back."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import cases

from mpitile.comm.devices import make_devices
from mpitile.comm.local import run_ranks
from mpitile.comm.topology import make_topology
from mpitile.geometry.tiling import Grid
from mpitile.kernels.tile import Tile
from mpitile.network.shapes import infer
from mpitile.network.spec import Connected, Convolutional, MaxPool, NetOptions, Route
from mpitile.plan.filters import split_at_switches
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.runtime.exchanges import Exchanges, gathering_place

EXACT = 1e-13


def conv(filters, size=3, stride=1):
    return Convolutional(filters, size, stride, size // 2, "leaky")


# Layers 1 and 4 read tiles whole, 3 slices as tiles, 5 slices and tiles as tiles, 6 tiles whole and
# 7 slices whole.
OPERATIONS = [
    conv(5),
    conv(4),
    MaxPool(2, 2, 0),
    conv(3),
    conv(7),
    Route((4, 3)),
    conv(3, 3, 2),
    Connected(2),
]
SWITCHES = infer(NetOptions(11, 9, 3), [(0, operation) for operation in OPERATIONS], "switches")
FILTERS = (1, 2, 4, 6, 7)


class Arrays:
    """Random arrays of their own for everything that a rank holds, as `PassArrays` has them.

    Whole copies are the same memory on all ranks of a device.
    """

    def __init__(self, partition, part, images, random, inside=None):
        def tile(box, shape, first, count):
            array = random.standard_normal((images, box.height, box.width, count))
            return Tile(array, box, shape.height, shape.width, first)

        def home():
            return {
                tensor: tile(
                    part.stored[tensor],
                    shape,
                    part.slices.get(tensor, (0, 0))[0],
                    part.channels(partition.network, tensor),
                )
                for tensor, shape in enumerate(partition.network.shapes)
            }

        def copies():
            shapes = partition.network.shapes
            return {
                group: {t: tile(box, shapes[t], 0, shapes[t].channels) for t, box in boxes.items()}
                for group, boxes in part.copies.items()
            }

        self.values, self.deltas = home(), home()
        self.copies, self.copy_deltas = copies(), copies()
        self.arena = SimpleNamespace(common=None)
        if inside:
            self.share(inside, {group: partition.gathers(group) for group in self.copies})

    def share(self, inside, whole):
        tiles = [
            (tiles, tensor, tile)
            for group, tiles in self.copies.items()
            for tensor, tile in tiles.items()
            if whole[group]
        ]
        size = sum(tile.array.nbytes for _, _, tile in tiles)
        self.arena.common = inside.share(0 if inside.rank else size)
        offset = 0
        for found, tensor, tile in tiles:
            stop = offset + tile.array.nbytes
            array = self.arena.common.segments[0][offset:stop].view(tile.array.dtype)
            found[tensor] = replace(tile, array=array.reshape(tile.array.shape))
            offset = stop

    def snapshot(self, group):
        """Copies of the home values and deltas, and of a group's copies of these."""
        parts = (self.values, self.deltas, self.copies, self.copy_deltas)
        parts = (*parts[:2], *(part.get(group, {}) for part in parts[2:]))
        names = ("values", "deltas", "copies", "copy_deltas")
        return SimpleNamespace(
            **{
                name: {tensor: tile.array.copy() for tensor, tile in part.items()}
                for name, part in zip(names, parts, strict=True)
            }
        )


def product(one, other):
    """The scalar product of some arrays, and the sum of its terms' magnitudes."""
    terms = [(one[tensor] * other[tensor]).ravel() for tensor in one]
    return np.array([[t.sum() for t in terms], [np.abs(t).sum() for t in terms]]).sum(axis=1)


def with_exchanges(comm, partition, images, ranks_per_device, seed, use):
    """``use(part, exchanges, arrays)`` on this rank, with all there is on rank 0 as result."""
    topology = make_topology(comm, partition.plan)
    part = partition.part(topology.tile)
    group = None if ranks_per_device is None else make_devices(comm, ranks_per_device)
    place = gathering_place(partition, topology, group)
    random = np.random.default_rng([seed, comm.rank])
    arrays = Arrays(partition, part, images, random, place.inside if place else None)
    exchanges = Exchanges(partition, part, topology, arrays, images, np.dtype(np.float64), place)
    result = use(part, exchanges, arrays)
    exchanges.close()
    return result


def products(part, exchanges, arrays):
    """For each group ``<F x, y>`` and ``<x, F* y>``."""
    found = []
    for number, exchange in enumerate(exchanges.of_group):
        before = arrays.snapshot(number)
        exchange.begin_forward()
        exchange.end_forward()
        exchange.begin_adjoint()
        exchange.end_adjoint()
        after = arrays.snapshot(number)
        left = product(after.values, before.deltas) + product(after.copies, before.copy_deltas)
        # What a copy held before is overwritten: nothing comes back to it.
        found.append((left, product(before.values, after.deltas)))
    return found


def assert_adjoint(ranks):
    for of_group in zip(*ranks, strict=True):
        (left, scale), (right, _) = np.sum(of_group, axis=0)
        assert abs(left - right) <= EXACT * scale


@settings(max_examples=50, deadline=None)
@given(cases(filters=True), st.sampled_from([None, 1, 2, "auto"]))
def test_backward_is_the_adjoint_of_forward(case, ranks_per_device):
    assume(case.plan.filters)
    partition = Partition(case.network, case.plan)
    images = case.batch // case.plan.replicas
    assert_adjoint(
        run_ranks(
            case.plan.ranks,
            lambda comm: with_exchanges(
                comm, partition, images, ranks_per_device, case.seed, products
            ),
        )
    )


@pytest.mark.parametrize("ranks_per_device", [None, 2, "auto"])
@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 2), Grid(3, 1), Grid(2, 2), Grid(2, 3)])
@pytest.mark.parametrize("filters", [FILTERS, (4,), (0, 1, 2, 3, 4, 6), ()], ids=len)
def test_every_switch_and_its_adjoint(grid, filters, ranks_per_device):
    groups = split_at_switches(SWITCHES, (0, 2, 5, 6, 7), filters)
    partition = Partition(SWITCHES, Plan(grid, groups, filters=filters))
    assert_adjoint(
        run_ranks(
            grid.tiles,
            lambda comm: with_exchanges(comm, partition, 2, ranks_per_device, 7, products),
        )
    )


@settings(max_examples=50, deadline=None)
@given(cases(filters=True), st.sampled_from([None, 1, 2, "auto"]))
def test_copies_hold_what_owners_hold(case, ranks_per_device):
    assume(case.plan.filters)
    partition = Partition(case.network, case.plan)
    shapes = case.network.shapes
    random = np.random.default_rng(case.seed)
    wholes = [random.standard_normal((s.height, s.width, s.channels)) for s in shapes]

    def compare(part, exchanges, arrays):
        for tensor, tile in arrays.values.items():
            tile.array[...] = np.nan
            channels = slice(*part.slices.get(tensor, (0, shapes[tensor].channels)))
            own = wholes[tensor][(*part.owned[tensor].slices(), channels)]
            tile.view(part.owned[tensor])[...] = own
        for number, exchange in enumerate(exchanges.of_group):
            exchange.begin_forward()
            exchange.end_forward()
            for tensor, tile in arrays.copies.get(number, {}).items():
                expected = wholes[tensor][tile.box.slices()]
                assert tile.array.shape[1:] == expected.shape
                assert (tile.array == expected).all()

    run_ranks(
        case.plan.ranks,
        lambda comm: with_exchanges(
            comm, partition, case.batch // case.plan.replicas, ranks_per_device, 0, compare
        ),
    )
