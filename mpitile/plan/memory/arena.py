"""One arena for all buffers of a pass: those never in use together share bytes."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

from mpitile.plan.memory.lifetimes import Buffer

# Whole cache lines, and the widest vector registers.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each buffer begins in the arena, and the bytes of the arena."""

    offsets: dict[Buffer, int]
    size: int


def lay_out(buffers: Iterable[Buffer]) -> Layout:
    """Place the largest buffers first, each as low as those in use with it allow.

    Source: greedy by size, Pisarchyk and Lee, "Efficient Memory Management for Deep
    Neural Net Inference", arXiv 2001.03288, algorithm 3.
    """
    offsets: dict[Buffer, int] = {}
    # From where to where, and when it is in use, in the order of places.
    placed: list[tuple[int, int, int]] = []
    order = sorted(buffers, key=lambda b: (-b.size, b.first, b.tensor, b.name))
    for buffer in order:
        size, events, lowest = _aligned(buffer.size), buffer.events, 0
        for start, end, others in placed:
            if others & events:
                if start - lowest >= size:
                    break
                if end > lowest:
                    lowest = end
        offsets[buffer] = lowest
        insort(placed, (lowest, lowest + size, events))
    return Layout(offsets, max((end for _, end, _ in placed), default=0))


def lay_out_common(buffers: Iterable[Buffer]) -> Layout:
    """Those that the ranks of a device have in common, in memory that exists once."""
    return lay_out(buffer for buffer in buffers if buffer.common)


def lay_out_own(buffers: Iterable[Buffer]) -> Layout:
    """The others, in a rank's own memory."""
    return lay_out(buffer for buffer in buffers if not buffer.common)


def in_use(buffers: Iterable[Buffer], event: int) -> int:
    """Bytes of the buffers that are in use at an event."""
    return sum(buffer.size for buffer in buffers if buffer.used_at(event))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
