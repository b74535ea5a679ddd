"""Which algorithms a run's convolutions use: by rule, by measurement, or exact ones."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mpitile.comm.agree import on_first
from mpitile.comm.communicator import Communicator
from mpitile.geometry.tiling import Grid
from mpitile.kernels import tuning
from mpitile.kernels.choice import Choices
from mpitile.network.spec import Network
from mpitile.runtime.shapes import network_shapes

KINDS = ("fast", "measured", "exact")


def choose_kernels(
    kind: str,
    network: Network,
    grid: Grid,
    images: int,
    world: Communicator,
    filters: Collection[int] = (),
) -> Choices:
    """What all ranks are told, so that they choose alike. Collective.

    Parameters
    ----------
    kind : "fast" chooses by a rule, "measured" by what rank 0's machine has measured or
        measures now, "exact" among algorithms whose result does not depend on tiles.
    images : of a pass on one team.
    filters : the filter-parallel layers.

    Raises
    ------
    InputError : on all ranks, where the file of measurements is damaged.
    """
    if kind != "measured":
        return possible_choices(kind)
    shapes = network_shapes(network, grid, images, filters)
    table = on_first(world, lambda: tuning.table(shapes))
    return replace(possible_choices(kind), table=table)


def possible_choices(kind: str) -> Choices:
    """What is known of the choices before anything is measured."""
    return Choices(exact=kind == "exact", measured=kind == "measured")
