"""Whole copies of tensors whose parts the ranks of a team own, and the adjoint.

See `mpitile.plan.gathers` for who sends what to whom.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpitile.comm.communicator import Channel, SharedMemory
from mpitile.comm.devices import TeamGroup
from mpitile.comm.recorder import Unrecorded
from mpitile.kernels.tile import Tile
from mpitile.plan.gathers import Part, held, part_sizes, partners

Tiles = Mapping[int, Tile]
# Cells of a tile as a view, and the same cells in shared memory.
_Pieces = list[tuple[np.ndarray, np.ndarray]]


class WholeExchange:
    """Fills each device's whole copies of tensors from all owners' parts.

    Each rank writes its own part of them and what it receives. The adjoint adds up the ranks'
    partial deltas of the copies, each owner's part in the order of ranks inside
    each device and then of devices, and adds the sum to what stands in the owner's delta, so
    that ``<forward x, y> = <x, adjoint y>`` and two runs give the same bits. It leaves the
    copies' deltas as they are. Making one is collective in the team, as is each of its calls;
    all requests are made here. Exchanges with the same memory follow each other: none begins
    before the one before has ended.

    Parameters
    ----------
    group : this rank's place in its team.
    memory : shared inside the device; each rank has added what
        `mpitile.plan.gathers.staging_bytes` says, or more.
    common : where the device's copies are.
    parts : by tensor, what each rank of the team owns. They cover the tensor.
    homes, copies : by tensor, the tiles that hold this rank's part, and the whole. A home's
        array has all channels, or those of the part alone; where the part is empty, none is
        looked for. Copies are the same memory on all ranks of the device, which is not used
        for anything else from this exchange's beginning until its last reader is done.
    home_deltas, copy_deltas : the same of gradients, each rank's own; left out where there is
        no way back.
    recorder : is told what begins and ends.

    Attributes
    ----------
    bytes : allocated here: none. All buffers are in `memory`, which is in its own account: what
        each rank has added to it.
    """

    bytes = 0

    def __init__(
        self,
        group: TeamGroup,
        memory: SharedMemory,
        common: SharedMemory,
        parts: Mapping[int, Sequence[Part]],
        homes: Tiles,
        copies: Tiles,
        home_deltas: Tiles | None = None,
        copy_deltas: Tiles | None = None,
        recorder: Unrecorded | None = None,
    ) -> None:
        array = next(iter(copies.values())).array
        segments = [segment.view(array.dtype) for segment in memory.segments]
        sizes = part_sizes(parts, len(array))
        relay = _Relay(group, memory, segments, parts, sizes, recorder or Unrecorded())
        self._forward = _Gather(relay, common, homes, copies)
        self._backward: _Sum | None = None
        if home_deltas is not None and copy_deltas is not None:
            self._backward = _Sum(relay, home_deltas, copy_deltas)

    def close(self) -> None:
        """Free the requests; the exchange is of no use afterwards."""
        self._forward.channel.close()
        if self._backward:
            self._backward.channel.close()

    def begin_forward(self) -> None:
        """Pack and send what this rank owns."""
        self._forward.begin()

    def end_forward(self) -> None:
        """Receive, and fill the whole copies."""
        self._forward.end()

    def begin_adjoint(self) -> None:
        """Add up partial deltas inside the device, and send the sums to their owners."""
        self._way_back().begin()

    def end_adjoint(self) -> None:
        """Receive other devices' sums, and add all of them to this rank's part."""
        self._way_back().end()

    def _way_back(self) -> _Sum:
        if self._backward is None:
            raise ValueError("no way back: the exchange was made without deltas")
        return self._backward


@dataclass(frozen=True)
class _Relay:
    """What both directions go by.

    Attributes
    ----------
    segments : of the device's ranks, as numbers.
    sizes : elements of each rank's parts.
    recorder : of this rank.
    """

    group: TeamGroup
    memory: SharedMemory
    segments: Sequence[np.ndarray]
    parts: Mapping[int, Sequence[Part]]
    sizes: Sequence[int]
    recorder: Unrecorded

    @property
    def rank(self) -> int:
        return self.group.team.rank

    def begin(self, channel: Channel) -> None:
        """Begin with messages, of which the recorder hears what they are for."""
        itemsize = self.segments[0].itemsize
        with self.recorder.begin_gather(self.rank, [itemsize * size for size in self.sizes]):
            channel.begin()

    def end(self, channel: Channel) -> None:
        """Wait for them."""
        with self.recorder.end_gather():
            channel.end()

    def provided(self, rank: int) -> tuple[int, ...]:
        """The owners whose parts a rank provides for the device."""
        return held(self.group.devices, self.sizes, rank)

    def partners(self) -> dict[int, int]:
        """By device, the rank that receives this rank's part."""
        every = partners(self.group.devices, self.sizes)
        return {device: of[self.rank] for device, of in enumerate(every) if self.rank in of}

    def cut(self, segment: np.ndarray, owners: Collection[int]) -> dict[int, np.ndarray]:
        """Owners' parts one after the other at the beginning of a segment."""
        found, offset = {}, 0
        for owner in owners:
            found[owner] = segment[offset : offset + self.sizes[owner]]
            offset += self.sizes[owner]
        return found

    def pieces(self, tiles: Tiles, owner: int, staged: np.ndarray) -> _Pieces:
        """Where an owner's part stands in tiles, and in a part of shared memory."""
        found, offset = [], 0
        for tensor, by_rank in self.parts.items():
            part = by_rank[owner]
            if not part.elements:
                continue
            view = _channels(tiles[tensor].view(part.box), part)
            found.append((view, staged[offset : offset + view.size].reshape(view.shape)))
            offset += view.size
        return found


class _Gather:
    """From owners into the whole copies of each device."""

    def __init__(self, relay: _Relay, common: SharedMemory, homes: Tiles, copies: Tiles) -> None:
        self._relay, self._memory, self._common = relay, relay.memory, common
        position = relay.group.devices.ranks[relay.group.number].index(relay.rank)
        own, *received = relay.provided(relay.rank)
        staged = relay.cut(relay.segments[position], (own, *received))
        # This rank's part as it is sent, and where it stands in the copies.
        self._sent = relay.pieces(homes, own, staged[own])
        self._own = relay.pieces(copies, own, staged[own])
        self._received = [
            piece for owner in received for piece in relay.pieces(copies, owner, staged[owner])
        ]
        self.channel: Channel = relay.group.team.channel(
            [(partner, staged[own]) for partner in relay.partners().values()],
            [(owner, staged[owner]) for owner in received],
        )

    def begin(self) -> None:
        # Others may still read what stood in the copies' place.
        self._fence()
        for view, staged in self._sent:
            np.copyto(staged, view)
        self._relay.begin(self.channel)
        for view, staged in self._own:
            np.copyto(view, staged)

    def end(self) -> None:
        self._relay.end(self.channel)
        for view, staged in self._received:
            np.copyto(view, staged)
        # The device's copies are complete when all its ranks are.
        self._fence()

    def _fence(self) -> None:
        self._common.order()
        self._memory.fence()
        self._common.order()


class _Sum:
    """From whole copies' partial deltas to the deltas of owners."""

    def __init__(self, relay: _Relay, homes: Tiles, copies: Tiles) -> None:
        self._relay, self._memory = relay, relay.memory
        devices, number, rank = relay.group.devices, relay.group.number, relay.rank
        position = devices.ranks[number].index(rank)
        owners = range(len(relay.sizes))
        copies_of_ranks = [relay.cut(segment, owners) for segment in relay.segments]
        self._whole = [
            piece
            for owner, part in copies_of_ranks[position].items()
            for piece in relay.pieces(copies, owner, part)
        ]
        provided = relay.provided(rank)
        self._inner = [[parts[owner] for parts in copies_of_ranks] for owner in provided]
        # Sums inside the device stand in the copy of its first rank.
        sums = copies_of_ranks[0]
        own = sums[rank]
        sources = relay.partners()
        behind = relay.segments[position][sum(relay.sizes) :]
        received = {
            device: behind[place * own.size : (place + 1) * own.size]
            for place, device in enumerate(sources)
        }
        self._outer = [received.get(device, own) for device in range(len(devices))]
        if not own.size:
            self._outer = [own]
        self._home = relay.pieces(homes, rank, self._outer[0])
        self.channel: Channel = relay.group.team.channel(
            [(owner, sums[owner]) for owner in provided[1:]],
            [(sources[device], buffer) for device, buffer in received.items()],
        )

    def begin(self) -> None:
        # Others may still read what this rank has written last time.
        self._memory.fence()
        for view, staged in self._whole:
            np.copyto(staged, view)
        self._memory.fence()
        for first, *others in self._inner:
            _add_to(first, others)
        self._relay.begin(self.channel)

    def end(self) -> None:
        self._relay.end(self.channel)
        first, *others = self._outer
        _add_to(first, others)
        for view, total in self._home:
            np.add(view, total, out=view)


def _add_to(first: np.ndarray, others: Sequence[np.ndarray]) -> None:
    for other in others:
        np.add(first, other, out=first)


def _channels(cells: np.ndarray, part: Part) -> np.ndarray:
    """The part's channels of cells that have all channels, or these alone."""
    start, stop = part.channels
    return cells if cells.shape[3] == stop - start else cells[..., start:stop]
