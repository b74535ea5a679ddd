"""What a rank computes in each fused group, piece by piece, in the order of forward."""

from __future__ import annotations

from dataclasses import dataclass

from mpitile.geometry.needs import group_ranges
from mpitile.network.merging import merged_pools
from mpitile.network.spec import Layer, Network
from mpitile.plan.plan import Plan
from mpitile.plan.recomputation import Piece, stages


@dataclass(frozen=True, slots=True)
class Task:
    """Layers that are computed together.

    Attributes
    ----------
    layer : the last of them, whose output is stored.
    first : the first of them, whose inputs are read.
    again : what is computed a second time just before this task's backward pass.
    """

    layer: Layer
    first: Layer
    again: tuple[Task, ...] = ()

    @property
    def merged(self) -> bool:
        """Whether this is a pool together with the convolution before it."""
        return self.first is not self.layer

    @property
    def normalized(self) -> bool:
        """Whether batch norm adds up over ranks."""
        return getattr(self.first.operation, "batch_normalize", False)


def group_tasks(network: Network, plan: Plan) -> tuple[tuple[Task, ...], ...]:
    """For each fused group of the plan, its tasks."""
    found: list[tuple[Task, ...]] = []
    cut = stages(network, plan.groups, plan.recompute, merged_pools(network, plan.groups))
    for first, stop in group_ranges(plan.groups, len(network.layers)):
        own = [stage for stage in cut if first <= stage.pieces[0][0] < stop]
        tasks: list[Task] = []
        for stage in own:
            again = tuple(_task(network, piece) for piece in stage.again)
            tasks += [_task(network, piece) for piece in stage.pieces[:-1]]
            tasks.append(_task(network, stage.pieces[-1], again))
        found.append(tuple(tasks))
    return tuple(found)


def _task(network: Network, piece: Piece, again: tuple[Task, ...] = ()) -> Task:
    return Task(network.layers[piece[-1]], network.layers[piece[0]], again)
