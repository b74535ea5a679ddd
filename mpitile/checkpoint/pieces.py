"""Which part of a network's arrays a rank has, whatever the division: rectangles of tables.

A layer's weights are a table with a column for each of its outputs, its vectors are tables of
one row. A slice of filters is some columns of these; what a rank keeps of a flat array, be it
of whole layers or of slices, is made of a few rectangles, each of them contiguous in its shard.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import accumulate

import h5py
import numpy as np

# Bytes that are read at a time, where not all of them are wanted.
_BLOCK_BYTES = 1 << 20

# From where up to where, in elements of a flat array.
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """What stands in a part of a flat array, row by row: some columns of a table.

    Attributes
    ----------
    table : its number, the same for all ranks and in all divisions.
    rows : how many the table has.
    columns : from where up to where they stand here.
    """

    table: int
    rows: int
    columns: tuple[int, int]

    @property
    def width(self) -> int:
        return self.columns[1] - self.columns[0]

    @property
    def size(self) -> int:
        return self.rows * self.width


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangle of a table: rows from `top` up to `bottom`, columns from `left` to `right`."""

    table: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def size(self) -> int:
        return self.height * self.width


def cut_pieces(fields: Sequence[Field], spans: Sequence[Span]) -> Iterator[Piece]:
    """The rectangles that spans of a flat array are made of, in its order."""
    ends = list(accumulate(field.size for field in fields))
    for start, stop in spans:
        number = bisect_right(ends, start)
        while start < stop:
            field, end = fields[number], min(stop, ends[number])
            first = ends[number] - field.size
            yield from _rectangles(field, start - first, end - first)
            start, number = end, number + 1


def _rectangles(field: Field, start: int, stop: int) -> Iterator[Piece]:
    """The rest of a row, whole rows, and the beginning of another, as far as they are there."""
    if start == stop:
        return
    table, width, (left, right) = field.table, field.width, field.columns
    top, before = divmod(start, width)
    bottom, behind = divmod(stop, width)
    if top == bottom:
        yield Piece(table, top, top + 1, left + before, left + behind)
        return
    if before:
        yield Piece(table, top, top + 1, left + before, right)
        top += 1
    if top < bottom:
        yield Piece(table, top, bottom, left, right)
    if behind:
        yield Piece(table, bottom, bottom + 1, left, left + behind)


def as_rows(pieces: Sequence[Piece]) -> np.ndarray:
    """Pieces as an (n, 5) array of integers, as shards hold them."""
    return np.array([astuple(piece) for piece in pieces], np.int64).reshape(-1, 5)


class StoredPieces:
    """Pieces one after the other in a dataset.

    Parameters
    ----------
    dataset : flat.
    rows : the pieces as `as_rows` gives them.
    """

    def __init__(self, dataset: h5py.Dataset, rows: np.ndarray) -> None:
        self._dataset = dataset
        order = np.argsort(rows[:, 0], kind="stable")
        sizes = (rows[:, 2] - rows[:, 1]) * (rows[:, 4] - rows[:, 3])
        # By table, so that those of one are found at once.
        self._places = (np.cumsum(sizes) - sizes)[order]
        self._rows = rows[order]

    def fill(self, piece: Piece, target: np.ndarray) -> int:
        """Write what is here of `piece` into `target`, its flat array; how many numbers it is."""
        first, last = np.searchsorted(self._rows[:, 0], [piece.table, piece.table + 1])
        rows = self._rows[first:last]
        tops, lefts = np.maximum(rows[:, 1], piece.top), np.maximum(rows[:, 3], piece.left)
        bottoms = np.minimum(rows[:, 2], piece.bottom)
        rights = np.minimum(rows[:, 4], piece.right)
        filled = 0
        for number in np.flatnonzero((tops < bottoms) & (lefts < rights)).tolist():
            common = Piece(
                piece.table,
                *(int(edge[number]) for edge in (tops, bottoms, lefts, rights)),
            )
            stored = Piece(*rows[number].tolist())
            self._copy(stored, int(self._places[first + number]), common, piece, target)
            filled += common.size
        return filled

    def _copy(
        self, stored: Piece, place: int, common: Piece, piece: Piece, target: np.ndarray
    ) -> None:
        """Write what a stored and a wanted piece have in common into the latter's flat array."""
        row = place + (common.top - stored.top) * stored.width + common.left - stored.left
        aim = (common.top - piece.top) * piece.width + common.left - piece.left
        if common.height == 1 or common.width == stored.width == piece.width:
            source = slice(row, row + common.size)
            self._dataset.read_direct(target, source, slice(aim, aim + common.size))
            return
        table = target.reshape(piece.height, piece.width)
        columns = slice(common.left - piece.left, common.right - piece.left)
        step = max(1, _BLOCK_BYTES // (stored.width * target.itemsize))
        for top in range(common.top, common.bottom, step):
            bottom = min(common.bottom, top + step)
            first = row + (top - common.top) * stored.width
            # As far as the last row's last column that is wanted.
            last = first + (bottom - top - 1) * stored.width + common.width
            block = np.empty((bottom - top) * stored.width, target.dtype)
            self._dataset.read_direct(block, slice(first, last), slice(0, last - first))
            values = block.reshape(bottom - top, stored.width)[:, : common.width]
            table[top - piece.top : bottom - piece.top, columns] = values
