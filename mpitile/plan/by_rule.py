"""Plausible grid and groups by rule, where the user names none."""

from __future__ import annotations

from collections.abc import Sequence

from mpitile.errors import InputError
from mpitile.geometry.needs import group_ranges
from mpitile.geometry.tiling import Grid, parse_grid
from mpitile.network.receptive import layer_geometry, whole_input_layers
from mpitile.network.spec import Network
from mpitile.plan.plan import Plan


def choose_plan(
    network: Network,
    ranks: int,
    grid: str = "auto",
    groups: str | Sequence[int] = "auto",
    replicas: int = 1,
    recompute: str | Sequence[int] = "auto",
) -> Plan:
    """Complete what the user left to "auto".

    Parameters
    ----------
    recompute : as `recompute_flags` takes it.

    Raises
    ------
    InputError : the number of ranks, the grid and the replicas do not go together.
    """
    if ranks < 1:
        raise InputError(f"{ranks} ranks: expected at least 1")
    if replicas < 1 or ranks % replicas:
        raise InputError(
            f"tiling.replicas = {replicas}: expected a positive divisor of the {ranks} ranks"
        )
    shape = network.shapes[0]
    chosen = (
        squarest_grid(ranks // replicas, shape.height, shape.width)
        if grid == "auto"
        else parse_grid(grid)
    )
    first_layers = default_groups(network) if groups == "auto" else groups
    starts = split_at_whole_inputs(network, tuple(first_layers))
    return Plan(chosen, starts, replicas, recompute=recompute_flags(recompute, len(starts)))


def recompute_flags(wanted: str | Sequence[int], groups: int) -> tuple[bool, ...]:
    """Which of the groups recompute their inner values; empty where none does.

    Parameters
    ----------
    wanted : "none", "all", "auto" (none), or numbers of groups, counted from 0.
    groups : how many there are.

    Raises
    ------
    InputError : a number is not that of a group.
    """
    if isinstance(wanted, str):
        return (True,) * groups if wanted == "all" else ()
    for number in wanted:
        if not 0 <= number < groups:
            raise InputError(
                f"recompute: there is no group {number}: expected numbers from 0 to "
                f"{groups - 1}, all or none"
            )
    return tuple(number in wanted for number in range(groups)) if wanted else ()


def squarest_grid(tiles: int, height: int, width: int) -> Grid:
    """The grid of this many tiles whose tiles have the shortest border."""
    grids = [Grid(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    fitting = [grid for grid in grids if grid.rows <= height and grid.columns <= width]
    if not fitting:
        raise InputError(
            f"{tiles} tiles do not fit the image of {height}x{width} cells: expected a number "
            f"of ranks that is a product of at most {height} rows and {width} columns"
        )
    # The wider tile wins a tie: halo rows are contiguous, halo columns are not.
    return min(fitting, key=lambda g: ((g.rows - 1) * width + (g.columns - 1) * height, g.columns))


def default_groups(network: Network) -> tuple[int, ...]:
    """A new group behind every layer that reduces the resolution."""
    starts = [0]
    for layer in network.layers[:-1]:
        if layer_geometry(layer).stride > 1:
            starts.append(layer.index + 1)
    return tuple(starts)


def split_at_whole_inputs(network: Network, groups: Sequence[int]) -> tuple[int, ...]:
    """Start a group at every layer whose tiles need its whole input.

    Inside a group such a layer would make every tile compute the whole of the
    layers before it; at a group's start its input is redistributed instead.
    """
    group_ranges(groups, len(network.layers))
    return tuple(sorted({*groups, *whole_input_layers(network)}))
