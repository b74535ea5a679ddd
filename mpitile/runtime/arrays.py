"""The arrays of a rank's passes, as tiles: tensors, their gradients, and groups' copies of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from mpitile.comm.communicator import Communicator
from mpitile.geometry.box import Box
from mpitile.kernels.aligned import aligned_zeros
from mpitile.kernels.tile import Tile
from mpitile.layers.registry import overwrites
from mpitile.network.kept import kept
from mpitile.network.spec import Layer, Network
from mpitile.plan.memory.lifetimes import DELTA, VALUE, Buffer
from mpitile.plan.partition import TilePart
from mpitile.plan.readers import Readers
from mpitile.runtime.arena import Arena

# By tensor.
Tiles = dict[int, Tile]


class PassArrays:
    """Where each layer of a rank finds what it reads and writes.

    Parameters
    ----------
    part : the rank's boxes.
    images : of each pass.
    buffers : by `mpitile.plan.memory.lifetimes`.
    inside : the ranks of the team on this device, which have whole copies in common; left out
        where nothing is gathered.

    Attributes
    ----------
    values, deltas : the tensors, and their gradients, as they lie at home: tiled or sliced.
    copies, copy_deltas : by group, the tensors that it reads from copies.
    arena : their memory.
    """

    def __init__(
        self,
        network: Network,
        part: TilePart,
        images: int,
        dtype: np.dtype,
        buffers: Sequence[Buffer],
        inside: Communicator | None = None,
    ) -> None:
        self._network, self._part, self._images, self._dtype = network, part, images, dtype
        self._readers = Readers(network, part)
        self.arena = Arena(tuple(buffers), inside)
        image = aligned_zeros(self._shape(0), dtype)
        self.values: Tiles = {0: self._tile(0, image, part.stored[0])}
        self.values |= self._tiles(VALUE)
        self.deltas = self._tiles(DELTA)
        self.copies = {group: self._copies(VALUE, group) for group in part.copies}
        self.copy_deltas = {group: self._copies(DELTA, group) for group in part.copies}
        self._added_to = self._by_event()

    def value(self, tensor: int, layer: int) -> Tile | None:
        """What a layer reads of a tensor; None where it is never stored."""
        group = self._part.copied_for(tensor, layer)
        return self.values.get(tensor) if group is None else self.copies[group][tensor]

    def delta(self, tensor: int, layer: int) -> Tile | None:
        """Where a layer writes to a tensor's gradient; None where none is wanted."""
        group = self._part.copied_for(tensor, layer)
        tiles = self.deltas if group is None else self.copy_deltas[group]
        return tiles.get(tensor)

    def kept(self, layer: Layer) -> dict[str, np.ndarray]:
        """What a layer keeps from forward to backward, by name."""
        shape = self._shape(layer.output)
        return {
            name: self.arena.array(name, layer.output, shape, self._dtype if real else np.uint8)
            for name, real in kept(layer).items()
        }

    def overwritten_by(self, layer: Layer) -> bool:
        """Whether a layer, the first to write to its first input's gradient, overwrites it."""
        tensor = layer.inputs[0]
        group = self._part.copied_for(tensor, layer.index)
        return self._overwriting(tensor, group) == layer.index

    def clear_deltas(self, events: Collection[int]) -> None:
        """Zero the gradients that are first added to at these events."""
        for event in events:
            for tile in self._added_to.get(event, ()):
                tile.array[...] = 0

    def _by_event(self) -> dict[int, list[Tile]]:
        """The gradients that are added to alone, by the event at which that begins."""
        found: dict[int, list[Tile]] = {}
        for group, tiles in [(None, self.deltas), *self.copy_deltas.items()]:
            for tensor, tile in tiles.items():
                if self._overwriting(tensor, group) is None:
                    first = self.arena.buffer(DELTA, tensor, group).first
                    found.setdefault(first, []).append(tile)
        return found

    def _overwriting(self, tensor: int, group: int | None) -> int | None:
        """The layer that overwrites a gradient; None where all that write to it add."""
        last = self._readers.last(tensor, group)
        if last is None or not overwrites(self._network.layers[last].operation):
            return None
        return last

    def _shape(self, tensor: int) -> tuple[int, int, int, int]:
        box = self._part.stored[tensor]
        return self._images, box.height, box.width, self._part.channels(self._network, tensor)

    def _tile(self, tensor: int, array: np.ndarray, box: Box, first_channel: int = 0) -> Tile:
        shape = self._network.shape(tensor)
        return Tile(array, box, shape.height, shape.width, first_channel)

    def _tiles(self, name: str) -> Tiles:
        """The tiles of all tensors that have a buffer of this name."""
        found = {}
        for tensor in range(len(self._network.shapes)):
            if self.arena.holds(name, tensor):
                array = self.arena.array(name, tensor, self._shape(tensor), self._dtype)
                first, _ = self._part.slices.get(tensor, (0, 0))
                found[tensor] = self._tile(tensor, array, self._part.stored[tensor], first)
        return found

    def _copies(self, name: str, group: int) -> Tiles:
        """A group's copies, or their gradients where they have any."""
        found = {}
        for tensor, box in self._part.copies[group].items():
            if self.arena.holds(name, tensor, group):
                channels = self._network.shape(tensor).channels
                shape = (self._images, box.height, box.width, channels)
                array = self.arena.array(name, tensor, shape, self._dtype, group)
                found[tensor] = self._tile(tensor, array, box)
        return found
