"""Where a rank stands in ``replicas x grid rows x grid columns``."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.comm.communicator import Communicator
from mpitile.plan.plan import Plan, check_ranks


@dataclass(frozen=True)
class Topology:
    """A rank's place.

    Attributes
    ----------
    world : all ranks.
    team : the ranks that share this rank's images; its rank number is the tile's.
    peers : the ranks of this tile in all replicas; its rank number is the replica's.
    replica, tile : which team, and which tile in it.
    """

    world: Communicator
    team: Communicator
    peers: Communicator
    replica: int
    tile: int


def make_topology(world: Communicator, plan: Plan) -> Topology:
    """Place this rank: ``rank = replica * tiles + tile``. Collective.

    Raises
    ------
    InputError : on every rank, where the plan is for another number of ranks.
    """
    check_ranks(plan, world.size)
    team = world.team(plan.replicas, plan.grid.rows, plan.grid.columns)
    replica, tile = divmod(world.rank, plan.grid.tiles)
    return Topology(world, team, world.split(tile), replica, tile)
