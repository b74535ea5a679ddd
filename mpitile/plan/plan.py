"""A plan: how a network is spread over ranks, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.errors import InputError
from mpitile.geometry.tiling import Grid


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides which rank computes what.

    Attributes
    ----------
    grid : tiles of one team; a team's ranks share each image.
    groups : the first layer of each fused group.
    replicas : how many teams share a batch.
    row_weights, column_weights : relative sizes of the grid's rows and columns.
    recompute : for each group whether its inner values are computed again for the
        backward pass instead of being kept until then; empty for none. See
        `mpitile.plan.recomputation`.
    filters : numbers of the filter-parallel layers, in ascending order; see
        `mpitile.plan.filters`.
    """

    grid: Grid
    groups: tuple[int, ...]
    replicas: int = 1
    row_weights: tuple[float, ...] | None = None
    column_weights: tuple[float, ...] | None = None
    recompute: tuple[bool, ...] = ()
    filters: tuple[int, ...] = ()

    @property
    def ranks(self) -> int:
        return self.replicas * self.grid.tiles


def check_ranks(plan: Plan, ranks: int) -> None:
    """Raise `InputError` unless the plan is for this number of ranks."""
    if plan.ranks != ranks:
        raise InputError(
            f"grid {plan.grid} with {plan.replicas} replica(s) needs {plan.ranks} ranks, "
            f"but there are {ranks}"
        )
