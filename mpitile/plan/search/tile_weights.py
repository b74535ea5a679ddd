"""Relative sizes of a grid's rows and columns where devices differ in speed."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.network.spec import Network
from mpitile.plan.clusters.cluster import OPERATIONS
from mpitile.plan.costs.cost import Cost
from mpitile.plan.plan import Plan

# Devices that differ by less are taken for equal.
_EQUAL = 1.05
_DIGITS = 3

Weights = tuple[float, ...]


def tile_weights(
    network: Network, cost: Cost, plan: Plan, images: int
) -> tuple[Weights, Weights] | tuple[None, None]:
    """Weights of the rows and columns of a grid; None for equal ones.

    A tile is as large as its row's weight times its column's. Of the weights for which no
    tile is larger than its device's share, those that let the slowest device compute most.

    Parameters
    ----------
    plan : its grid and number of replicas.
    images : of a pass on one team.
    """
    grid, places = plan.grid, cost.cluster.device_of
    speeds = _speeds(network, cost, plan, images)
    rates = [
        [
            min(
                speeds[places(replica * grid.tiles + grid.tile(row, column))]
                for replica in range(plan.replicas)
            )
            for column in range(grid.columns)
        ]
        for row in range(grid.rows)
    ]
    everything = [rate for row in rates for rate in row]
    if max(everything) <= _EQUAL * min(everything):
        return None, None
    across = [list(column) for column in zip(*rates, strict=True)]
    rows, columns = _fitted(rates)
    other_columns, other_rows = _fitted(across)
    if sum(other_rows) * sum(other_columns) > sum(rows) * sum(columns):
        rows, columns = other_rows, other_columns
    return _rounded(rows), _rounded(columns)


def _fitted(rates: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Weights of which no product is larger than its rate: the slowest of each line leads."""
    lines = [min(line) for line in rates]
    crossing = [
        min(rate / line for rate, line in zip(rates_across, lines, strict=True))
        for rates_across in zip(*rates, strict=True)
    ]
    return lines, crossing


def _rounded(weights: Sequence[float]) -> Weights:
    largest = max(weights)
    return tuple(round(weight / largest, _DIGITS) or 10**-_DIGITS for weight in weights)


def _speeds(network: Network, cost: Cost, plan: Plan, images: int) -> dict[int, float]:
    """Passes a second of each device that computes, on a tile of an even grid."""
    grid = plan.grid
    devices = {cost.cluster.device_of(rank) for rank in range(plan.ranks)}
    found = {}
    for device in devices:
        seconds = 0.0
        for layer in network.layers:
            shape = layer.output_shape
            box = (images, -(-shape.height // grid.rows), -(-shape.width // grid.columns))
            seconds += sum(
                cost.compute(device, layer.index, operation, *box) for operation in OPERATIONS
            )
        found[device] = 1 / seconds if seconds else 1.0
    return found
