"""Arrays that begin on a cache line, so that no vector of channels straddles two."""

from __future__ import annotations

from math import prod

import numpy as np

LINE = 64


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """As ``numpy.zeros``."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    memory = np.zeros(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(dtype).reshape(shape)
