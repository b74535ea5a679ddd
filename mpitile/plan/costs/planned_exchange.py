"""One direction of a group's exchange in a plan: what does not change from pass to pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

from mpitile.plan.clusters.wires import EAGER_BYTES
from mpitile.plan.costs.cost import Cost, Message
from mpitile.plan.recording import ADJOINT, FORWARD

# By rank, its seconds of copying.
Copying = Mapping[int, float]


class PlannedExchange:
    """Messages between ranks of the world that all begin at once.

    Parameters
    ----------
    messages : as they travel.
    seconds : `Cost.exchange` of them, which is the same in both directions.

    Attributes
    ----------
    seconds : until each rank has sent and received its part.
    """

    def __init__(
        self, cost: Cost, messages: Sequence[Message], seconds: Mapping[int, float]
    ) -> None:
        self._cost, self._messages, self.seconds = cost, messages, seconds
        # For each rank, whose coming it waits for: to begin, or inside the exchange.
        self._begun: dict[int, set[int]] = {rank: set() for rank in seconds}
        self._there: dict[int, set[int]] = {rank: set() for rank in seconds}
        for source, target, size in messages:
            for rank in (source, target):
                if size <= EAGER_BYTES:
                    self._begun[rank].add(source)
                else:
                    self._there[rank].update((source, target))

    def starts(self, begun: Sequence[float], there: Sequence[float]) -> dict[int, float]:
        """When the last message of each rank sets out.

        Parameters
        ----------
        begun, there : when each rank has begun the exchange, and when it begins to wait.
        """
        return {
            rank: max(
                max((begun[other] for other in self._begun[rank]), default=0.0),
                max((there[other] for other in self._there[rank]), default=0.0),
            )
            for rank in self.seconds
        }

    @cached_property
    def packing(self) -> Copying:
        """Into the buffers of what is sent."""
        return self._copying((message.source, message.size) for message in self._messages)

    @cached_property
    def unpacking(self) -> Copying:
        """Out of those of what is received."""
        return self._copying((message.target, message.size) for message in self._messages)

    def _copying(self, sizes: Iterable[tuple[int, float]]) -> Copying:
        pieces: Counter[int] = Counter()
        every: Counter[int] = Counter()
        for rank, size in sizes:
            pieces[rank] += 1
            every[rank] += size
        return {
            rank: self._cost.pack(self._cost.cluster.device_of(rank), every[rank], count)
            for rank, count in pieces.items()
        }


# Plans that are compared have most of their groups in common.
@lru_cache(512)
def both_ways(cost: Cost, messages: tuple[Message, ...]) -> Mapping[str, PlannedExchange]:
    """By direction, an exchange whose messages forward are these."""
    back = [Message(message.target, message.source, message.size) for message in messages]
    seconds = cost.exchange(messages)
    return {
        FORWARD: PlannedExchange(cost, messages, seconds),
        ADJOINT: PlannedExchange(cost, back, seconds),
    }
