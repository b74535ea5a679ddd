"""Exchanges between real ranks: what they deliver, and ``<F x, y> = <x, F* y>``."""

import numpy as np
import pytest
import strategies
from hypothesis import Phase, given, settings

from mpitile.comm.exchange import Exchange
from mpitile.geometry.tiling import Grid
from mpitile.kernels.tile import Tile
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan

IMAGES = 2
EXACT = 1e-13


def networks_with_groups(count):
    """The same random networks and groups on every rank."""
    found = []

    @settings(max_examples=count, phases=[Phase.generate], derandomize=True, database=None)
    @given(strategies.networks().flatmap(lambda n: strategies.groups(n).map(lambda g: (n, g))))
    def collect(pair):
        found.append(pair)

    collect()
    return found


def grids(tiles):
    return [Grid(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]


def partitions(tiles):
    for number, (network, groups) in enumerate(networks_with_groups(6)):
        every_layer = tuple(range(len(network.layers)))
        for grid in grids(tiles):
            rows = tuple(float(1 + row) for row in range(grid.rows)) if number % 2 else None
            for starts in {groups, every_layer}:
                yield Partition(network, Plan(grid, starts, row_weights=rows))


def tiles_of(partition, part, fill):
    """This rank's tiles of all tensors; `fill` makes values from shape, tensor number and box."""
    tiles = {}
    for tensor, (shape, box) in enumerate(zip(partition.network.shapes, part.stored, strict=True)):
        values = fill((IMAGES, box.height, box.width, shape.channels), tensor, box)
        tiles[tensor] = Tile(np.ascontiguousarray(values), box, shape.height, shape.width)
    return tiles


def dot(comm, one, other):
    """Scalar product over all tensors and ranks, and the sum of the terms' magnitudes."""
    terms = [one[tensor].array * other[tensor].array for tensor in one]
    sums = np.array([sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)])
    comm.sum(sums)
    return sums


@pytest.mark.mpi(ranks=[2, 3, 4, 6])
def test_adjoint(comm):
    for number, partition in enumerate(partitions(comm.size)):
        part = partition.part(comm.rank)
        random = np.random.default_rng([number, comm.rank])

        def normal(shape, tensor, box, random=random):
            return random.standard_normal(shape)

        for transfers in part.transfers:
            values, deltas = (tiles_of(partition, part, normal) for _ in range(2))
            x, y = (
                {
                    t: Tile(tile.array.copy(), tile.box, tile.height, tile.width)
                    for t, tile in tiles.items()
                }
                for tiles in (values, deltas)
            )
            exchange = Exchange(comm, transfers, values, deltas)
            exchange.begin_forward()
            exchange.end_forward()
            exchange.begin_adjoint()
            exchange.end_adjoint()
            (left, scale), (right, _) = dot(comm, values, y), dot(comm, x, deltas)
            assert abs(left - right) <= EXACT * scale, (partition.plan, left - right, scale)


@pytest.mark.mpi(ranks=[2, 3, 4, 6])
def test_halos_hold_their_owners_cells(comm):
    moved = np.zeros(1)
    for number, partition in enumerate(partitions(comm.size)):
        part = partition.part(comm.rank)
        wholes = [
            np.random.default_rng([number, tensor]).standard_normal(
                (IMAGES, shape.height, shape.width, shape.channels)
            )
            for tensor, shape in enumerate(partition.network.shapes)
        ]

        def owned_alone(shape, tensor, box, part=part, wholes=wholes):
            values = np.full(wholes[tensor].shape, np.nan)
            cells = (slice(None), *part.owned[tensor].slices())
            values[cells] = wholes[tensor][cells]
            return values[(slice(None), *box.slices())]

        for needs, transfers in zip(part.groups, part.transfers, strict=True):
            values = tiles_of(partition, part, owned_alone)
            exchange = Exchange(comm, transfers, values, {})
            exchange.begin_forward()
            exchange.end_forward()
            moved += exchange.bytes
            for tensor, box in needs.fetched.items():
                if tensor and not box.empty:
                    expected = wholes[tensor][(slice(None), *box.slices())]
                    np.testing.assert_array_equal(values[tensor].view(box), expected)
    comm.sum(moved)
    assert moved > 0
