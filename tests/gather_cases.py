"""Tensors in parts, and what an exchange of whole copies is to give, for tests."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mpitile.comm.devices import DeviceGroup, make_team_group
from mpitile.comm.gathering import WholeExchange
from mpitile.geometry.box import EMPTY, Box, whole
from mpitile.geometry.tiling import Grid, cut_lines
from mpitile.kernels.tile import Tile
from mpitile.plan.gathers import Part, part_sizes, staging_bytes


def tiled(height, width, channels, grid, rows=None, columns=None):
    """All channels of each tile's cells; a tile has none where lines fall together."""
    lines = [
        list(pairwise(cut_lines(length, weights or (1.0,) * count)))
        for length, weights, count in ((height, rows, grid.rows), (width, columns, grid.columns))
    ]
    boxes = (Box(*ys, *xs) for ys in lines[0] for xs in lines[1])
    return tuple(Part(EMPTY if box.empty else box, (0, channels)) for box in boxes)


def sliced(height, width, channels, weights):
    """All cells of each rank's channels."""
    lines = cut_lines(channels, weights)
    return tuple(Part(whole(height, width), span) for span in pairwise(lines))


def grids(tiles):
    return [Grid(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]


@dataclass(frozen=True)
class Tensor:
    """The size of a tensor, and the ranks' parts of it."""

    height: int
    width: int
    channels: int
    parts: tuple[Part, ...]

    def home(self, rank, images, random, dtype):
        """A rank's tile, with random numbers: a tile with a rim, or a slice by itself."""
        box, (start, stop) = self.parts[rank].box, self.parts[rank].channels
        if box.empty:
            return Tile(np.empty((images, 0, 0, self.channels), dtype), EMPTY, *self.size)
        rim = Box(box.y0 - 1, box.y1 + 1, box.x0 - 1, box.x1 + 1)
        box = rim.intersect(whole(*self.size))
        array = random.standard_normal((images, box.height, box.width, stop - start))
        return Tile(array.astype(dtype), box, *self.size)

    def copy(self, images, random, dtype):
        """A whole tile, with random numbers."""
        array = random.standard_normal((images, *self.size, self.channels))
        return Tile(array.astype(dtype), whole(*self.size), *self.size)

    @property
    def size(self):
        return self.height, self.width

    def owned(self, tile, part):
        """The part's numbers in its home or in a whole copy."""
        start, stop = part.channels
        cells = tile.view(part.box)
        return cells if cells.shape[3] == stop - start else cells[..., start:stop]


@dataclass(frozen=True)
class Case:
    """Exchanges that share memory: of each the tensors, by number."""

    exchanges: tuple[dict[int, Tensor], ...]
    images: int
    dtype: type = np.float64
    seed: int = 0

    def sizes(self, number):
        tensors = self.exchanges[number].items()
        return part_sizes({key: tensor.parts for key, tensor in tensors}, self.images)

    def every_size(self):
        return [self.sizes(number) for number in range(len(self.exchanges))]

    def random(self, *key):
        return np.random.default_rng([self.seed, *key])

    def homes(self, number, rank, key):
        random = self.random(number, rank, key)
        return {
            tensor: about.home(rank, self.images, random, self.dtype)
            for tensor, about in self.exchanges[number].items()
        }

    def copies(self, number, rank, key):
        random = self.random(number, rank, key)
        return {
            tensor: about.copy(self.images, random, self.dtype)
            for tensor, about in self.exchanges[number].items()
        }


def group_of(comm, split):
    """The team of all ranks, on devices as told."""
    number, _ = split.place(comm.rank)
    return make_team_group(DeviceGroup(split, comm.split(0), comm.split(number), number), comm)


@dataclass(frozen=True)
class Ends:
    """The tiles of one exchange on one rank."""

    homes: dict
    copies: dict
    home_deltas: dict
    copy_deltas: dict


def common_copies(group, case):
    """Of each exchange the copies, with the device's first rank's numbers, and their memory."""
    plain = [case.copies(number, group.team.rank, 1) for number in range(len(case.exchanges))]
    size = sum(tile.array.nbytes for copies in plain for tile in copies.values())
    memory = group.inside.share(0 if group.inside.rank else size)
    offset = 0
    for copies in plain:
        for tensor, tile in copies.items():
            stop = offset + tile.array.nbytes
            array = memory.segments[0][offset:stop].view(case.dtype).reshape(tile.array.shape)
            if group.inside.rank == 0:
                array[...] = tile.array
            copies[tensor] = replace(tile, array=array)
            offset = stop
    memory.fence()
    return plain, memory


def make(comm, split, case, recorder=None):
    """All exchanges of a case, with the tiles of each, and the memory that they share."""
    group = group_of(comm, split)
    every_copy, common = common_copies(group, case)
    itemsize = np.dtype(case.dtype).itemsize
    size = staging_bytes(split, case.every_size(), comm.rank, itemsize, adjoint=True)
    memory = group.inside.share(size)
    made = []
    for number, tensors in enumerate(case.exchanges):
        ends = Ends(
            case.homes(number, comm.rank, 0),
            every_copy[number],
            case.homes(number, comm.rank, 2),
            case.copies(number, comm.rank, 3),
        )
        parts = {key: tensor.parts for key, tensor in tensors.items()}
        exchange = WholeExchange(
            group,
            memory,
            common,
            parts,
            ends.homes,
            ends.copies,
            ends.home_deltas,
            ends.copy_deltas,
            recorder,
        )
        made.append((exchange, ends))
    return made, (memory, common)


def expected_copies(case, number):
    """Whole tensors out of all ranks' homes."""
    found = {}
    for key, tensor in case.exchanges[number].items():
        array = np.full((case.images, *tensor.size, tensor.channels), np.nan, case.dtype)
        target = Tile(array, whole(*tensor.size), *tensor.size)
        for rank, part in enumerate(tensor.parts):
            if part.elements:
                home = case.homes(number, rank, 0)[key]
                tensor.owned(target, part)[...] = tensor.owned(home, part)
        found[key] = array
    return found


def expected_deltas(case, number, split, rank):
    """A rank's home deltas behind the adjoint, added up in the order that is promised."""
    deltas = case.homes(number, rank, 2)
    for key, tensor in case.exchanges[number].items():
        part = tensor.parts[rank]
        if not part.elements:
            continue
        sums = []
        for ranks in split.ranks:
            terms = [
                tensor.owned(case.copies(number, other, 3)[key], part).copy() for other in ranks
            ]
            sums.append(sum(terms[1:], terms[0]))
        tensor.owned(deltas[key], part)[...] += sum(sums[1:], sums[0])
    return deltas
