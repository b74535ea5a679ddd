"""The exchange at the start of a fused group, and its adjoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mpitile.comm.communicator import Channel, Communicator
from mpitile.geometry.transfers import Message, Piece, Transfers
from mpitile.kernels.boxes import BufferedCells, Move, moving
from mpitile.kernels.tile import Tile

Tiles = Mapping[int, Tile]
# A message and the memory that it is packed in.
_Packed = tuple[Message, np.ndarray]


class Exchange:
    """One message per neighbour and direction for all tensors and images of a group.

    Forward copies owned cells into the neighbours' halos, or into their copies of a tensor.
    The adjoint sends what stands there back, adds it at the owner and clears the halos, so that
    ``<forward x, y> = <x, adjoint y>``. Making one is collective in the team, as
    is each of its calls; all memory and requests are made here.

    Parameters
    ----------
    team : the ranks that share images; peers in `transfers` are its rank numbers.
    transfers : this rank's messages.
    values, deltas : the tiles that hold each tensor, and its gradient, on this rank.
    copies, copy_deltas : of tensors that are received into an array of their own, the tiles
        that hold this copy and its gradient.
    """

    def __init__(
        self,
        team: Communicator,
        transfers: Transfers,
        values: Tiles,
        deltas: Tiles,
        copies: Tiles | None = None,
        copy_deltas: Tiles | None = None,
    ) -> None:
        copies, copy_deltas = copies or {}, copy_deltas or {}
        targets = {**values, **copies}
        outgoing, incoming = (
            _buffers(transfers.sends, values),
            _buffers(transfers.receives, targets),
        )
        self._pack = moving(cells.pack for _, _, cells in _cells(outgoing, values))
        self._unpack = moving(cells.unpack for _, _, cells in _cells(incoming, targets))
        self._copy = moving(
            Move("copy", copy, home) for copy, home in _local(transfers, copies, values)
        )
        self._pack_back = moving(
            cells.pack if piece.tensor in copy_deltas else cells.take
            for _, piece, cells in _cells(incoming, {**deltas, **copy_deltas})
        )
        sums = [(peer, cells.add) for peer, _, cells in _cells(outgoing, deltas)]
        own = [Move("add", home, copy) for home, copy in _local(transfers, deltas, copy_deltas)]
        # In the order of ranks: the sum is reproducible.
        self._add = moving(
            [
                *(add for peer, add in sums if peer < team.rank),
                *own,
                *(add for peer, add in sums if peer > team.rank),
            ]
        )
        sends = [(message.peer, buffer) for message, buffer in outgoing]
        receives = [(message.peer, buffer) for message, buffer in incoming]
        self._bytes = sum(buffer.nbytes for _, buffer in [*sends, *receives])
        self._forward: Channel = team.channel(sends, receives)
        self._backward: Channel = team.channel(receives, sends)

    @property
    def bytes(self) -> int:
        """Bytes of all message buffers."""
        return self._bytes

    def close(self) -> None:
        """Free the requests; the exchange is of no use afterwards."""
        self._forward.close()
        self._backward.close()

    def begin_forward(self) -> None:
        """Pack and send owned cells."""
        self._pack()
        self._forward.begin()
        self._copy()

    def end_forward(self) -> None:
        """Receive, and fill the halos and copies."""
        self._forward.end()
        self._unpack()

    def begin_adjoint(self) -> None:
        """Pack and send partial deltas of halos and copies to their owners; clear the halos."""
        self._pack_back()
        self._backward.begin()

    def end_adjoint(self) -> None:
        """Receive partial deltas and add them."""
        self._backward.end()
        self._add()


def _buffers(messages: tuple[Message, ...], tiles: Tiles) -> list[_Packed]:
    """One flat buffer for each message."""
    buffers = []
    for message in messages:
        first = tiles[message.pieces[0].tensor].array
        size = len(first) * message.elements(lambda tensor: tiles[tensor].array.shape[3])
        buffers.append((message, np.empty(size, first.dtype)))
    return buffers


def _cells(messages: Sequence[_Packed], tiles: Tiles) -> Iterator[tuple[int, Piece, BufferedCells]]:
    """The peer and cells of all messages' pieces in order; none where there are no tiles."""
    for message, buffer in messages if tiles else ():
        end = 0
        for piece in message.pieces:
            cells = BufferedCells(tiles[piece.tensor], piece.box, buffer, end, piece.channels)
            end = cells.end
            yield message.peer, piece, cells


def _local(
    transfers: Transfers, first: Tiles, second: Tiles
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both views of the cells that the tile itself reads from a copy; none without tiles."""
    for piece in transfers.local if first and second else ():
        cells = piece.box, piece.channels
        yield first[piece.tensor].view(*cells), second[piece.tensor].view(*cells)
