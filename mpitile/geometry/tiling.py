"""Who owns which cells: cut lines of one tensor, carried to all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import inf

from mpitile.errors import InputError
from mpitile.geometry.box import EMPTY, Box
from mpitile.geometry.receptive import LayerGeometry


@dataclass(frozen=True, slots=True)
class Grid:
    """``rows x columns`` tiles, numbered row by row.

    Attributes
    ----------
    block : rows and columns of the blocks in which tiles are numbered: one block after the other
        row by row, and the tiles of each likewise. Tiles whose numbers follow each other are
        the ranks of one device: a compact block has shorter borders than a row of tiles.
    """

    rows: int
    columns: int
    block: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise InputError(f"grid {self}: expected at least 1x1 tiles")
        high, wide = self.block
        if high < 1 or wide < 1 or self.rows % high or self.columns % wide:
            raise InputError(
                f"grid {self}: expected blocks that divide {self.rows}x{self.columns} tiles"
            )

    @property
    def tiles(self) -> int:
        return self.rows * self.columns

    def position(self, tile: int) -> tuple[int, int]:
        """Row and column of a tile."""
        high, wide = self.block
        number, inside = divmod(tile, high * wide)
        down, across = divmod(number, self.columns // wide)
        row, column = divmod(inside, wide)
        return down * high + row, across * wide + column

    def tile(self, row: int, column: int) -> int:
        """The number of the tile in this row and column."""
        high, wide = self.block
        (down, inner_row), (across, inner_column) = divmod(row, high), divmod(column, wide)
        number = down * (self.columns // wide) + across
        return (number * high + inner_row) * wide + inner_column

    def __str__(self) -> str:
        text = f"{self.rows}x{self.columns}"
        return text if self.block == (1, 1) else f"{text}/{self.block[0]}x{self.block[1]}"


def parse_grid(text: str) -> Grid:
    """The grid written as ``ROWSxCOLUMNS``, or ``ROWSxCOLUMNS/ROWSxCOLUMNS`` with its blocks."""
    size, separator, block = text.partition("/")
    pairs = [_pair(size), _pair(block)] if separator else [_pair(size), (1, 1)]
    if pairs[0] is None or pairs[1] is None:
        raise InputError(
            f"grid {text!r}: expected ROWSxCOLUMNS, such as 2x2, or with blocks, such as 4x6/2x2"
        )
    return Grid(*pairs[0], pairs[1])


def _pair(text: str) -> tuple[int, int] | None:
    rows, separator, columns = text.lower().partition("x")
    if not (separator and rows.strip().isdecimal() and columns.strip().isdecimal()):
        return None
    return int(rows), int(columns)


def cut_lines(length: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Cut ``[0, length)`` into consecutive parts in proportion to `weights`.

    Returns ``len(weights) + 1`` ascending positions from 0 to `length`. Equal
    weights give parts whose lengths differ by one at most.
    """
    if not weights or not all(0 < weight < inf for weight in weights):
        raise InputError(f"tile weights {list(weights)}: expected positive numbers")
    shares = [Fraction(weight) for weight in weights]
    total, behind, cuts = sum(shares), Fraction(0), [0]
    for share in shares:
        behind += share
        cuts.append(int(length * behind / total))
    return tuple(cuts)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Ownership of every tensor's cells by the tiles of a grid.

    Attributes
    ----------
    grid : the tile grid.
    rows, columns : for each tensor, its ascending cut lines.
    """

    grid: Grid
    rows: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]

    def owned(self, tensor: int, tile: int) -> Box:
        """The cells of a tensor that a tile owns; empty where it owns none."""
        row, column = self.grid.position(tile)
        rows, columns = self.rows[tensor], self.columns[tensor]
        box = Box(rows[row], rows[row + 1], columns[column], columns[column + 1])
        return EMPTY if box.empty else box


def tensor_strides(layers: Sequence[LayerGeometry]) -> tuple[Fraction, ...]:
    """For each tensor, how many image cells one of its cells stands for."""
    strides = [Fraction(1)]
    for layer in layers:
        strides.append(strides[layer.inputs[0]] * layer.stride)
    return tuple(strides)


def tile_tensors(
    sizes: Sequence[tuple[int, int]],
    layers: Sequence[LayerGeometry],
    grid: Grid,
    row_weights: Sequence[float] | None = None,
    column_weights: Sequence[float] | None = None,
) -> Tiling:
    """Split the last tensor that has a cell for every tile and carry its cut lines to the rest.

    Lines are carried in cells of the image, by way of each tensor's stride: tensors of one
    size and stride have the same lines, whichever way through the network leads to them. A line
    that falls between two cells of a coarser tensor is moved behind the cell that it cuts.

    Parameters
    ----------
    sizes : height and width of each tensor, tensor 0 being the image.
    layers : the geometry of each layer; layer ``i`` writes tensor ``i + 1``.
    grid : the tile grid.
    row_weights, column_weights : relative sizes of the grid's rows and columns;
        equal where left out.

    Raises
    ------
    InputError : the grid is larger than the image, or weights do not fit the grid.
    """
    height, width = sizes[0]
    if grid.rows > height or grid.columns > width:
        raise InputError(
            f"grid {grid} is larger than the image of {height}x{width} cells: "
            f"expected at most {height}x{width} tiles"
        )
    strides = tensor_strides(layers)
    anchor = max(
        tensor
        for tensor, (rows, columns) in enumerate(sizes)
        if rows >= grid.rows and columns >= grid.columns
    )
    axes = []
    for axis, parts, weights in (
        (0, grid.rows, row_weights),
        (1, grid.columns, column_weights),
    ):
        weights = [1] * parts if weights is None else weights
        if len(weights) != parts:
            raise InputError(
                f"{len(weights)} tile weights for grid {grid}: expected {parts}, one for each "
                f"{'row' if axis == 0 else 'column'}"
            )
        lines = [cut * strides[anchor] for cut in cut_lines(sizes[anchor][axis], weights)]
        axes.append(
            tuple(
                _carry(lines, stride, size[axis])
                for stride, size in zip(strides, sizes, strict=True)
            )
        )
    return Tiling(grid, *axes)


def _carry(lines: Sequence[Fraction], stride: Fraction, length: int) -> tuple[int, ...]:
    """Cut lines in image cells, as cut lines of a tensor with this stride and length."""
    inner = (min(length, -int(-line // stride)) for line in lines[1:-1])
    return (0, *inner, length)
