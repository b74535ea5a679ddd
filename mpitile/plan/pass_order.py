"""The order of work in a pass: forward, loss, then backward with what is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpitile.plan.recomputation import Stage


@dataclass(frozen=True)
class PassOrder:
    """Numbers of events, in the order in which a pass meets them.

    Attributes
    ----------
    forward, backward : by layer; layers that are computed together share an event.
    again : by layer, of those that are computed a second time.
    loss : between forward and backward; a network without loss layer takes its loss here.
    end : behind all others.
    """

    forward: dict[int, int]
    loss: int
    again: dict[int, int]
    backward: dict[int, int]
    end: int


def pass_order(stages: Sequence[Stage]) -> PassOrder:
    """Of a pass through these stages."""
    forward: dict[int, int] = {}
    again: dict[int, int] = {}
    backward: dict[int, int] = {}
    event = 0
    for stage in stages:
        for piece in stage.pieces:
            forward |= dict.fromkeys(piece, event)
            event += 1
    loss, event = event, event + 1
    for stage in reversed(stages):
        for piece in stage.again:
            again |= dict.fromkeys(piece, event)
            event += 1
        for piece in reversed(stage.pieces):
            backward |= dict.fromkeys(piece, event)
            event += 1
    return PassOrder(forward, loss, again, backward, event)
