"""The memory of a rank's passes: one allocation, laid out ahead of time."""

from __future__ import annotations

from math import prod

import numpy as np

from mpitile.plan.lifetimes import Buffer
from mpitile.plan.memory import ALIGNMENT, Layout, lay_out


class Arena:
    """Hands out arrays at the places that `mpitile.plan.memory` gives their buffers.

    Attributes
    ----------
    layout : the places.
    """

    def __init__(self, buffers: tuple[Buffer, ...]) -> None:
        self.layout: Layout = lay_out(buffers)
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
        offset = self.layout.offsets[buffer]
        return self._memory[offset : offset + size].view(dtype).reshape(shape)
