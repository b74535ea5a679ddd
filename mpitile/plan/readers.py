"""Who reads a tensor itself, and who a copy of it."""

from __future__ import annotations

from mpitile.network.spec import Network
from mpitile.plan.partition import TilePart


class Readers:
    """The layers that read each tensor of a network under a plan.

    Attributes
    ----------
    direct : by tensor, the layers that read it itself.
    copied : by tensor and group, the layers that read the group's copy of it.
    """

    def __init__(self, network: Network, part: TilePart) -> None:
        self.direct: list[list[int]] = [[] for _ in network.shapes]
        self.copied: dict[tuple[int, int], list[int]] = {}
        self._first = [needs.first for needs in part.groups]
        for layer in network.layers:
            for tensor in layer.inputs:
                group = part.copied_for(tensor, layer.index)
                if group is None:
                    self.direct[tensor].append(layer.index)
                else:
                    self.copied.setdefault((tensor, group), []).append(layer.index)

    def uses(self, tensor: int) -> list[int]:
        """Layers at whose turn a tensor is read and its gradient written to: its own readers,
        and the first of each group that has a copy."""
        copying = [group for copied, group in self.copied if copied == tensor]
        return self.direct[tensor] + [self._first[group] for group in copying]

    def last(self, tensor: int, group: int | None = None) -> int | None:
        """The layer that is the first to write to the gradient of a tensor, or of a group's copy.

        None where nobody reads it, or where what comes back from a copy is written first.
        """
        readers = self.direct[tensor] if group is None else self.copied[tensor, group]
        uses = self.uses(tensor) if group is None else readers
        return max(readers) if readers and max(readers) == max(uses) else None
