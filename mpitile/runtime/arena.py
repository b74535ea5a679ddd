"""The memory of a rank's passes: one allocation, and one for its device, laid out ahead of time."""

from __future__ import annotations

from math import prod

import numpy as np

from mpitile.comm.communicator import Communicator, SharedMemory
from mpitile.plan.memory.arena import ALIGNMENT, Layout, lay_out_common, lay_out_own
from mpitile.plan.memory.lifetimes import Buffer


class Arena:
    """Hands out arrays at the places that `mpitile.plan.memory.arena` gives their buffers.

    Parameters
    ----------
    inside : the ranks that have some buffers in common, for which making one is collective;
        left out where there are no such buffers.

    Attributes
    ----------
    layout, common_layout : the places in this rank's own memory, and in what is in common.
    common : the memory of what is in common; None where nothing is.
    common_bytes : of it, in the account of the first rank.
    """

    def __init__(self, buffers: tuple[Buffer, ...], inside: Communicator | None = None) -> None:
        self.layout: Layout = lay_out_own(buffers)
        self.common: SharedMemory | None = None
        self.common_layout = lay_out_common(buffers)
        self.common_bytes = 0
        if inside:
            self.common_bytes = 0 if inside.rank else self.common_layout.size
            self.common = inside.share(self.common_bytes)
        self._buffers = {(buffer.name, buffer.tensor, buffer.group): buffer for buffer in buffers}
        memory = np.empty(self.layout.size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self._memory = memory[start : start + self.layout.size]

    def holds(self, name: str, tensor: int, group: int | None = None) -> bool:
        """Whether a pass has such a buffer."""
        return (name, tensor, group) in self._buffers

    def buffer(self, name: str, tensor: int, group: int | None = None) -> Buffer:
        """The buffer of that name and tensor, or of a group's copy of the tensor."""
        return self._buffers[name, tensor, group]

    def array(
        self,
        name: str,
        tensor: int,
        shape: tuple[int, ...],
        dtype: np.dtype | type,
        group: int | None = None,
    ) -> np.ndarray:
        """The buffer as an array, whose contents hold from its first to its last event."""
        buffer = self._buffers[name, tensor, group]
        size = prod(shape) * np.dtype(dtype).itemsize
        if size != buffer.size:
            raise ValueError(f"{name} of tensor {tensor} has {buffer.size} bytes, not {size}")
        memory, layout = self._memory, self.layout
        if self.common and buffer.common:
            memory, layout = self.common.segments[0], self.common_layout
        offset = layout.offsets[buffer]
        return memory[offset : offset + size].view(dtype).reshape(shape)

    def close(self) -> None:
        """Give back what is in common, whose arrays must not be touched. Collective."""
        if self.common:
            self.common.close()
