"""Grids whose rows and columns have changed places, so that one of them tells what both take."""

from __future__ import annotations

from mpitile.network.spec import Network
from mpitile.plan.costs.cost import Cost
from mpitile.plan.plan import Plan

# By device its speed, its memory, and the teams and places of its tiles.
_Places = frozenset[tuple[int, int | None, frozenset[tuple[int, tuple[int, int]]]]]


def mirrored(network: Network, cost: Cost, one: Plan, other: Plan) -> bool:
    """Whether two plans differ by their tiles' rows and columns alone, and groups take as long.

    Devices of the same speed and memory may have changed places, too: their links are alike.
    """
    return (
        all(shape.height == shape.width for shape in network.shapes)
        and (one.grid.rows, one.grid.columns) == (other.grid.columns, other.grid.rows)
        and (one.row_weights, one.column_weights) == (other.column_weights, other.row_weights)
        and one.replicas == other.replicas
        and _places(cost, one, False) == _places(cost, other, True)
    )


def _places(cost: Cost, plan: Plan, turned: bool) -> _Places:
    members: dict[int, set[tuple[int, tuple[int, int]]]] = {}
    for rank in range(plan.ranks):
        team, tile = divmod(rank, plan.grid.tiles)
        row, column = plan.grid.position(tile)
        place = (column, row) if turned else (row, column)
        members.setdefault(cost.cluster.device_of(rank), set()).add((team, place))
    devices = cost.cluster.devices
    return frozenset(
        (cost.same_speed(device), devices[device].memory, frozenset(own))
        for device, own in members.items()
    )
