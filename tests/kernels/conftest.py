"""Random tiles: boxes of whole tensors with more cells around them than are needed."""

import numpy as np
import pytest

from mpitile.geometry.box import Box
from mpitile.kernels import _fast, conv
from mpitile.kernels.algorithms import OPERATIONS
from mpitile.kernels.tile import Tile


class Draw:
    """One seeded source of arrays, boxes and tiles."""

    def __init__(self, seed, dtype):
        self.random = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)

    def array(self, *shape):
        return self.random.standard_normal(shape).astype(self.dtype)

    def box(self, height, width):
        """Any box of the tensor, never empty."""
        y0, x0 = self.random.integers(height), self.random.integers(width)
        y1, x1 = self.random.integers(y0, height) + 1, self.random.integers(x0, width) + 1
        return Box(int(y0), int(y1), int(x0), int(x1))

    def around(self, box, height, width):
        """A box that holds `box` and up to two cells more on each side."""
        more = [int(n) for n in self.random.integers(0, 3, 4)]
        return Box(
            max(0, box.y0 - more[0]),
            min(height, box.y1 + more[1]),
            max(0, box.x0 - more[2]),
            min(width, box.x1 + more[3]),
        )

    def tile(self, whole, box):
        """A tile of `whole` (N, H, W, C) that holds `box`, with its own memory."""
        _, height, width, _ = whole.shape
        held = self.around(box, height, width)
        rows, columns = held.slices()
        array = np.array(whole[:, rows, columns], self.dtype, order="C")
        return Tile(array, held, height, width)


def cut(height, width, rows, columns):
    """The boxes of a grid over the tensor; some may be empty."""
    ys = [height * i // rows for i in range(rows + 1)]
    xs = [width * i // columns for i in range(columns + 1)]
    return [Box(ys[i], ys[i + 1], xs[j], xs[j + 1]) for i in range(rows) for j in range(columns)]


def close(actual, expected, dtype, at_least=1.0):
    """Agreement relative to the largest expected value, or to `at_least` where that is more."""
    tolerance = 2e-5 if np.dtype(dtype) == np.float32 else 1e-12
    scale = max(at_least, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def elements(algorithm, x, weights, box, stride, padding, operations=OPERATIONS):
    """Of the workspace that an algorithm wants for these operations on a box; x is a tile."""
    return max(
        conv.workspace_size(
            conv.Call(name, weights.shape, stride, padding, 1, len(x.array), box, x.box),
            (algorithm,),
        )
        for name in operations
    )


@pytest.fixture(autouse=True)
def same_instruction_set_afterwards():
    used = _fast.selected()
    yield
    _fast.select(used)


@pytest.fixture(scope="session")
def tools():
    class Tools:
        draw = Draw
        cut = staticmethod(cut)
        close = staticmethod(close)
        elements = staticmethod(elements)

    return Tools
