"""Who sends to whom when all ranks add something up."""

from __future__ import annotations

Pairs = tuple[tuple[int, int], ...]


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
