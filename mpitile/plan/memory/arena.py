"""One arena for all buffers of a pass: those never in use together share bytes."""

from __future__ import annotations

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
    order = sorted(buffers, key=lambda b: (-b.size, b.first, b.tensor, b.name))
    for buffer in order:
        together = sorted(
            (offset, offset + _aligned(other.size))
            for other, offset in offsets.items()
            if other.meets(buffer)
        )
        lowest = 0
        for start, end in together:
            if start - lowest >= _aligned(buffer.size):
                break
            lowest = max(lowest, end)
        offsets[buffer] = lowest
    size = max((offset + _aligned(buffer.size) for buffer, offset in offsets.items()), default=0)
    return Layout(offsets, size)


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
