"""Tiles of a device lie together where that leaves fewer halos between devices."""

import pytest
from planner_cases import cluster

from mpitile.geometry.tiling import Grid
from mpitile.network.cfg import parse_network
from mpitile.plan.clusters.placement import placed
from mpitile.plan.costs.cost import Cost
from mpitile.plan.costs.predict import predict
from mpitile.plan.memory.bytes import Demand
from mpitile.plan.partition import Partition
from mpitile.plan.plan import Plan
from mpitile.plan.search.planner import Planner
from mpitile.plan.search.request import Request
from mpitile.plan.traffic import group_traffic

CFG = """
[net]
height=96
width=96
[convolutional]
filters=8
size=3
pad=1
[convolutional]
filters=8
size=3
pad=1
"""


def network():
    return parse_network(CFG, "net.cfg")


def between_devices(grid, per_device):
    """Elements that travel between devices of so many ranks each."""
    partition = Partition(network(), Plan(grid, (0, 1)))
    return sum(
        size
        for (source, target), size in group_traffic(partition, 1).items()
        if source // per_device != target // per_device
    )


@pytest.mark.parametrize(
    ("grid", "per_device", "block"),
    [
        (Grid(4, 4), 4, (2, 2)),
        (Grid(4, 6), 4, (2, 2)),
        # Rows of tiles as they are numbered anyway.
        (Grid(1, 8), 4, (1, 1)),
        (Grid(2, 2), 2, (1, 1)),
        (Grid(2, 2), 4, (1, 1)),
        (Grid(6, 4), 6, (3, 2)),
        # No block of four fits.
        (Grid(3, 5), 4, (1, 1)),
    ],
)
def test_blocks_have_the_shortest_border(grid, per_device, block):
    found = placed(grid, lambda rank: rank // per_device, grid.tiles, 96, 96)
    assert found == Grid(grid.rows, grid.columns, block)
    if block != (1, 1):
        assert between_devices(found, per_device) < between_devices(grid, per_device)


def test_wide_images_are_cut_across():
    assert placed(Grid(2, 2), lambda rank: rank // 2, 4, 32, 512).block == (2, 1)
    assert placed(Grid(2, 2), lambda rank: rank // 2, 4, 512, 32).block == (1, 1)


def test_teams_inside_devices_need_no_blocks():
    assert placed(Grid(2, 2), lambda rank: rank // 4, 16, 32, 512).block == (1, 1)


def test_the_planner_places_tiles_and_counts_what_it_gains():
    devices = cluster(*[(4, 1.0)] * 4, between=(1e-5, 1e6))
    request = Request(network(), devices, 16, Demand(1), groups=(0, 1))
    chosen = Planner(request).best().plan
    assert chosen.grid == Grid(4, 4, (2, 2))
    cost = Cost(network(), devices)
    plain = predict(Partition(network(), Plan(Grid(4, 4), (0, 1))), cost, 1)
    blocks = predict(Partition(network(), Plan(chosen.grid, (0, 1))), cost, 1)
    assert blocks.step_seconds < plain.step_seconds
    named = Planner(Request(network(), devices, 16, Demand(1), grid="4x4", groups=(0, 1)))
    assert named.best().plan.grid == Grid(4, 4)
