"""Which algorithm computes an operation of a given shape.

A choice is a pure function of the shape, the dtype, whether exactness is wanted, and a table
of measurements, all of them plain data: ranks that are told the same choose alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from mpitile.kernels.algorithms import ALGORITHMS, EXACT, LARGE_GRADIENT, possible


@dataclass(frozen=True, slots=True)
class Shape:
    """One operation: its kernel and the output cells that one call computes."""

    operation: str
    kernel_height: int
    kernel_width: int
    channels: int
    filters: int
    stride: int
    images: int
    rows: int
    columns: int

    @property
    def weights(self) -> int:
        """Elements of the kernel's weights."""
        return self.kernel_height * self.kernel_width * self.channels * self.filters

    @property
    def key(self) -> str:
        """The shape as the table's files name it."""
        return (
            f"{self.operation} {self.kernel_height}x{self.kernel_width}/{self.stride} "
            f"{self.channels}-{self.filters} {self.images}x{self.rows}x{self.columns}"
        )


# Fewer channels on either side leave Winograd's products too thin for its transforms.
FEWEST_CHANNELS = 16


def default(shape: Shape, exact: bool = False) -> str:
    """The choice without measurements, for float32."""
    kernel = (shape.kernel_height, shape.kernel_width)

    def can(algorithm: str) -> bool:
        return possible(algorithm, shape.operation, kernel, shape.stride, np.dtype(np.float32))

    best = "direct"
    if not exact and can("winograd4") and min(shape.channels, shape.filters) >= FEWEST_CHANNELS:
        best = _winograd(shape)
    if best == "direct" and shape.operation == "backward_weights" and _is_large(shape):
        return "im2row"
    return best if can(best) else "im2row"


def _is_large(shape: Shape) -> bool:
    """Whether BLAS adds to the gradient's distant rows faster than the direct products."""
    cells = shape.images * shape.rows * shape.columns
    return shape.weights > LARGE_GRADIENT and cells <= FEW_PIXELS


FEW_PIXELS = 512

# For one channel and one filter, in multiplications of a product: reading a weight, in order
# or to transform it, and writing a place of its transform; and what a channel of a tile
# costs at each place on its way into a transform or out of it. A gradient's transform costs
# more: it is read from where the products have just left it, and written far apart.
DIRECT_WEIGHTS, READ_WEIGHTS, WRITE_PLACE = 330, 400, 10
WRITE_GRADIENT = 250
TRANSFORM_TILE = 28
# Where F(4x4) has so few tiles, places never leave the nearest cache; weights and places then
# cost this together, and a gradient of so many weights, which the other ways pass over more
# often, no more than the forward pass.
NEAR_TILES = 56
NEAR = {"forward": 270, "backward_input": 350, "backward_weights": 460}
WIDE_GRADIENT = 2**18


def _winograd(shape: Shape) -> str:
    """By the multiplications of products, and what transforms cost."""
    costs = {"direct": 9.0 * shape.images * shape.rows * shape.columns + DIRECT_WEIGHTS}
    transforms = 1 + TRANSFORM_TILE * (1 / shape.channels + 1 / shape.filters)
    for name, cells in (("winograd2", 2), ("winograd4", 4)):
        tiles = shape.images * -(-shape.rows // cells) * -(-shape.columns // cells)
        products = shape.images * _line(shape.rows, cells) * _line(shape.columns, cells)
        if cells == 4 and tiles <= NEAR_TILES:
            wide = shape.operation == "backward_weights" and shape.weights > WIDE_GRADIENT
            costs[name] = products * transforms + NEAR["forward" if wide else shape.operation]
            continue
        costs[name] = products * transforms + (cells + 2) ** 2 * WRITE_PLACE + READ_WEIGHTS
        if shape.operation == "backward_weights":
            costs[name] += WRITE_GRADIENT
    return min(costs, key=costs.__getitem__)


def _line(length: int, cells: int) -> int:
    """Places of a line of tiles; where these have 4 cells, the last has only what is left."""
    whole, rest = divmod(length, cells)
    last = rest if cells == 4 else cells
    return (cells + 2) * whole + (last + 2 if rest else 0)


def choose(
    shape: Shape, dtype: np.dtype, exact: bool = False, table: Mapping[str, str] | None = None
) -> str:
    """The table's choice where it has one that is allowed, the default elsewhere."""
    if dtype != np.float32:
        return "im2row"
    measured = (table or {}).get(shape.key)
    kernel = (shape.kernel_height, shape.kernel_width)
    if (
        measured
        and (not exact or measured in EXACT)
        and possible(measured, shape.operation, kernel, shape.stride, dtype)
    ):
        return measured
    return default(shape, exact)


@dataclass(frozen=True)
class Choices:
    """What ranks must be told to choose alike.

    Attributes
    ----------
    exact : keep to algorithms whose results do not depend on where a tile begins.
    table : algorithms by `Shape.key`, as measured.
    measured : whether there is, or will be, a table that anything possible may stand in.
    """

    exact: bool = False
    table: Mapping[str, str] = field(default_factory=dict)
    measured: bool = False

    def of(self, shape: Shape, dtype: np.dtype | type) -> str:
        """The algorithm for one shape."""
        return choose(shape, np.dtype(dtype), self.exact, self.table)

    def candidates(self, shape: Shape, dtype: np.dtype | type) -> tuple[str, ...]:
        """The algorithms that may be chosen for one shape, whatever the table."""
        dtype = np.dtype(dtype)
        if not self.measured:
            return (self.of(shape, dtype),)
        kernel = (shape.kernel_height, shape.kernel_width)
        return tuple(
            name
            for name in ALGORITHMS
            if possible(name, shape.operation, kernel, shape.stride, dtype)
        )
