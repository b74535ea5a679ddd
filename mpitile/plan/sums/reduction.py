"""Who sends to whom when all ranks add something up."""

from __future__ import annotations

Pairs = tuple[tuple[int, int], ...]

# Up to so many devices small sums go directly between all of them; from there on a tree's rounds
# take less than as many messages for each device.
_DIRECT_DEVICES = 16


def direct(devices: int) -> bool:
    """Whether small sums over all ranks go inside each device first, then directly between them."""
    return 1 < devices <= _DIRECT_DEVICES


def reduce_rounds(ranks: int) -> tuple[Pairs, ...]:
    """Up a binomial tree: in round r, ranks at odd multiples of 2^r send to the one before."""
    return tuple(
        tuple((rank, rank - step) for rank in range(step, ranks, 2 * step))
        for step in _powers(ranks)
    )


def broadcast_rounds(ranks: int) -> tuple[Pairs, ...]:
    """Down again: in round r, the first 2^r ranks send to as many behind them."""
    return tuple(
        tuple((rank - step, rank) for rank in range(step, min(2 * step, ranks)))
        for step in _powers(ranks)
    )


def _powers(ranks: int) -> list[int]:
    """The powers of two below `ranks`."""
    powers = []
    step = 1
    while step < ranks:
        powers.append(step)
        step *= 2
    return powers
