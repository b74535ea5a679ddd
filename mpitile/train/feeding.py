"""Images into each rank's tile of tensor 0, and truths beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mpitile.comm.topology import Topology
from mpitile.data.batches import Batch, BatchSource, Prefetcher
from mpitile.data.samples import CLASSIFICATION, Dataset
from mpitile.errors import InputError, MpitileError
from mpitile.geometry.box import Box
from mpitile.kernels.tile import Tile
from mpitile.plan.memory.bytes import STAGES


@dataclass(frozen=True)
class Passes:
    """Which images each pass takes: `images` consecutive positions over all replicas.

    Attributes
    ----------
    images : of one pass, a multiple of `replicas`.
    replicas : how many teams share them.
    """

    images: int
    replicas: int

    def positions(self, number: int, replica: int | None = None) -> range:
        """Positions of a pass; those of one replica, where given."""
        first, count = number * self.images, self.images
        if replica is not None:
            count //= self.replicas
            first += replica * count
        return range(first, first + count)


class Feeder:
    """Gives every rank its own box of the next images, whoever reads them.

    The next pass is read while the present one computes. Ranks agree on images that
    cannot be read: they stop all ranks, or are replaced by the sample after them,
    the same on every rank. Making one, and `next`, are collective.

    Parameters
    ----------
    topology : this rank's place.
    tile : where this rank's images go, (images / replicas, box, 3).
    source : loads what this rank reads; None on ranks that read nothing.
    passes : how the run's images are divided into passes.
    numbers : the passes that are read, in order.
    skip_unreadable : replace an unreadable image, rather than stop.
    remark : called on rank 0, once for each unreadable image.

    Attributes
    ----------
    bytes : of the arrays that images are read into.
    """

    def __init__(
        self,
        topology: Topology,
        tile: Tile,
        source: BatchSource | None,
        passes: Passes,
        numbers: range,
        skip_unreadable: bool = False,
        remark: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._topology = topology
        self._tile = tile
        self._source = source
        self._passes = passes
        self._skip = skip_unreadable
        self._remark = remark
        self._named: set[str] = set()
        self._flags = np.zeros(passes.images, np.int64)
        self.replaced: frozenset[int] = frozenset()
        self.bytes = 0
        self._prefetcher = self._make_prefetcher(source, numbers) if source else None

    def _make_prefetcher(self, source: BatchSource, numbers: range) -> Prefetcher[Batch]:
        images, box = len(self._own_positions(numbers.start)), source.box
        # One is read into while the other is in use.
        shape = (STAGES, images, box.height, box.width, source.channels)
        buffers = np.empty(shape, source.dtype)
        self.bytes += buffers.nbytes

        def load(number: int) -> Batch:
            return source.load(self._own_positions(number), buffers[number % STAGES])

        return Prefetcher(load, numbers.start, numbers.stop)

    def _own_positions(self, number: int) -> range:
        """The positions that this rank reads."""
        return self._passes.positions(number, self._topology.replica)

    def next(self, number: int) -> Sequence:
        """Fill the tile for a pass; the truths of its images, as `Step.truths` wants them.

        After it, `replaced` holds the positions whose image could not be read.
        """
        batch = self._agreed(number)
        return self._deliver(batch)

    def close(self) -> None:
        """End the reading thread."""
        if self._prefetcher:
            self._prefetcher.close()

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _agreed(self, number: int) -> Batch | None:
        batch = self._prefetcher.get(number) if self._prefetcher else None
        replaced: set[int] = set()
        attempt = 0
        while failed := self._failed(number, batch):
            attempt += 1
            replaced.update(failed)
            self._judge(number, batch, attempt)
            own = self._own_positions(number)
            for position in failed:
                if self._source and batch and position in own:
                    item = self._source.load_one(position, attempt)
                    batch = batch.with_item(position - own.start, item)
        self.replaced = frozenset(replaced)
        return batch

    def _failed(self, number: int, batch: Batch | None) -> list[int]:
        """Positions of the pass whose image some rank could not read. Collective."""
        everything = self._passes.positions(number)
        self._flags[:] = 0
        if batch:
            offset = self._own_positions(number).start - everything.start
            for slot, reason in enumerate(batch.unreadable):
                self._flags[offset + slot] = bool(reason)
        self._topology.world.maximum(self._flags)
        return [everything.start + int(slot) for slot in np.flatnonzero(self._flags)]

    def _judge(self, number: int, batch: Batch | None, attempt: int) -> None:
        """Name the unreadable images; raise on all ranks where they are fatal. Collective."""
        count = len(self._source.dataset) if self._source else 0
        reasons = [reason for reason in batch.unreadable if reason] if batch else []
        everyone = self._topology.world.allgather((count, reasons))
        reasons = self._located([some for _, some in everyone], sum(bool(n) for n, _ in everyone))
        if not self._skip:
            raise InputError(reasons[0] + ' (data.unreadable = "skip" would go on without it)')
        for reason in reasons:
            if reason not in self._named:
                self._named.add(reason)
                if self._topology.world.rank == 0:
                    self._remark(f"{reason}; skipped")
        if attempt >= max(count for count, _ in everyone):
            raise InputError("no image of the data set can be read")

    def _located(self, reasons: Sequence[Sequence[str]], readers: int) -> list[str]:
        """All ranks' reasons, sorted; with a rank where others of its team could read the image."""
        ranks: dict[str, list[int]] = {}
        for rank, some in enumerate(reasons):
            for reason in dict.fromkeys(some):
                ranks.setdefault(reason, []).append(rank)
        team = readers // self._passes.replicas
        return [
            reason if len(some) >= team else f"rank {some[0]}: {reason}"
            for reason, some in sorted(ranks.items())
        ]

    def _deliver(self, batch: Batch | None) -> Sequence:
        if batch is None:
            raise MpitileError("this rank has nothing to read and nobody reads for it")
        self._tile.array[...] = batch.images
        return _truths(batch)


class RootFeeder(Feeder):
    """Rank 0 reads whole images and sends every rank its box: only one device has the files.

    `source` covers the whole canvas on rank 0 and is None elsewhere. `boxes` are the
    image boxes of all tiles; `capacity` is the most truths that an image has.
    """

    def __init__(
        self,
        topology: Topology,
        tile: Tile,
        source: BatchSource | None,
        *args: object,
        boxes: Sequence[Box] = (),
        capacity: int = 0,
        classification: bool = False,
        **options: object,
    ) -> None:
        super().__init__(topology, tile, source, *args, **options)
        self._classification = classification
        images = tile.array.shape[0]
        self._images_out: list[np.ndarray] = []
        self._truths_out: list[np.ndarray] = []
        self._boxes = boxes
        # Row 0 of each image says how many rows follow.
        self._truths_in = np.zeros((images, capacity + 1, 5))
        receives = [(0, tile.array), (0, self._truths_in)] if topology.world.rank else []
        sends = []
        if topology.world.rank == 0:
            for rank in range(topology.world.size):
                box = boxes[rank % len(boxes)]
                shape = (images, box.height, box.width, tile.array.shape[3])
                self._images_out.append(np.zeros(shape, tile.array.dtype))
                self.bytes += self._images_out[-1].nbytes
                self._truths_out.append(np.zeros_like(self._truths_in))
                if rank:
                    sends += [(rank, self._images_out[rank]), (rank, self._truths_out[rank])]
        self._channel = topology.world.channel(sends, receives)

    def close(self) -> None:
        super().close()
        self._channel.close()

    def _own_positions(self, number: int) -> range:
        return self._passes.positions(number)

    def _deliver(self, batch: Batch | None) -> Sequence:
        if batch:
            self._cut(batch)
        self._channel.begin()
        self._channel.end()
        if batch:
            self._tile.array[...] = self._images_out[0]
            self._truths_in[...] = self._truths_out[0]
        counts = self._truths_in[:, 0, 0].astype(int)
        if self._classification:
            return self._truths_in[:, 1, 4].astype(np.intp)
        # Copies: the buffer is filled again by the next pass.
        received = zip(self._truths_in, counts, strict=True)
        return [rows[1 : count + 1].copy() for rows, count in received]

    def _cut(self, batch: Batch) -> None:
        """Every rank's boxes of its replica's images, and their truths."""
        images = self._tile.array.shape[0]
        for rank, (pixels, truths) in enumerate(
            zip(self._images_out, self._truths_out, strict=True)
        ):
            replica, tile = divmod(rank, len(self._boxes))
            first = replica * images
            rows, columns = self._boxes[tile].slices()
            pixels[...] = batch.images[first : first + images, rows, columns]
            for image in range(images):
                self._pack_truths(truths[image], batch, first + image)

    def _pack_truths(self, out: np.ndarray, batch: Batch, slot: int) -> None:
        if batch.labels is not None:
            out[0, 0], out[1, 4] = 1, batch.labels[slot]
        else:
            rows = batch.truths[slot]
            out[0, 0] = len(rows)
            out[1 : len(rows) + 1] = rows


def _truths(batch: Batch) -> Sequence:
    return batch.truths if batch.labels is None else batch.labels


def truth_capacity(dataset: Dataset) -> int:
    """The most truths that an image of the data set has; a class label is one."""
    if dataset.kind == CLASSIFICATION:
        return 1
    return max((len(sample.truths) for sample in dataset.samples), default=0)
